"""Standardisation: statistics as merged sums over clients' training rows, applied when rows are read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.data.preprocessing import Standardisation, TargetScale
from flctl.errors import ConfigError, DataError
from flctl.types import Batch, FloatArray, IntArray

__all__ = ["Kind", "Moments", "Standardise", "Standardiser", "Statistics", "kind_of", "moments_of"]

Float64 = FloatArray
Kind = Literal["feature", "channel", "unit", "none"]
Standardise = Literal["auto", "feature", "channel", "unit", "none"]
PIXEL_MAX = 255.0
CONSTANT = 1e-7
"""A spread below this part of the mean is below what float32 resolves: the value counts as constant."""


@dataclass(slots=True)
class Moments:
    """Per position: how many values, their mean, and the sum of squared deviations from it (float64).

    An accumulator: `merge` adds another client's (or part of a client's) moments in place, by Chan, Golub and
    LeVeque (1979), equation 2.1; only these sums would have to leave a client.
    """

    size: int
    count: Float64 = field(init=False)
    mean: Float64 = field(init=False)
    squares: Float64 = field(init=False)

    def __post_init__(self) -> None:
        self.count, self.mean, self.squares = (np.zeros(self.size) for _ in range(3))

    def merge(self, count: Float64, mean: Float64, squares: Float64) -> None:
        """Merges K clients at once: all arguments are [K, size]."""
        with np.errstate(invalid="ignore", over="ignore"):
            total = self.count + count.sum(axis=0)
            merged = (self.count * self.mean + (count * mean).sum(axis=0)) / np.maximum(total, 1)
            between = self.count * (self.mean - merged) ** 2 + (count * (mean - merged) ** 2).sum(axis=0)
            self.squares = self.squares + squares.sum(axis=0) + between
            self.count, self.mean = total, merged

    def shift_and_scale(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and population standard deviation rounded to float32; 1 where a value is constant or missing."""
        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        with np.errstate(over="ignore"):
            shift, scale = self.mean.astype(np.float32), deviation.astype(np.float32)
        constant = deviation <= CONSTANT * np.abs(self.mean)
        return shift, np.where(constant | (scale == 0), np.float32(1), scale)


def moments_of(x: npt.NDArray[Any], client: IntArray) -> tuple[Float64, Float64, Float64]:
    """(count, mean, squares) [K, size] of each client in rows x [n, size, repeats]; NaN is missing.

    `client` [n] names each row's client and is sorted; K counts the ones that occur.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values are refused by name in `Statistics.result`
        return _moments_of(x.astype(np.float64), may_miss=x.dtype.kind == "f", client=client)


def _moments_of(values: Float64, client: IntArray, *, may_miss: bool) -> tuple[Float64, Float64, Float64]:
    """Works in place on `values`."""
    missing = np.isnan(values) if may_miss else None
    if missing is not None:
        values[missing] = 0
    starts = np.flatnonzero(np.r_[True, client[1:] != client[:-1]])
    count = _counted(values.shape, missing, starts, len(client))
    mean = np.add.reduceat(values.sum(axis=2), starts, axis=0) / np.maximum(count, 1)
    values -= np.repeat(mean, np.diff(starts, append=len(client)), axis=0)[:, :, None]
    if missing is not None:
        values[missing] = 0
    np.square(values, out=values)
    return count, mean, np.add.reduceat(values.sum(axis=2), starts, axis=0)


def _counted(
    shape: tuple[int, ...], missing: npt.NDArray[np.bool_] | None, starts: npt.NDArray[np.intp], rows: int
) -> Float64:
    sizes = np.diff(starts, append=rows).astype(np.float64)
    count = np.repeat(sizes[:, None] * shape[2], shape[1], axis=1)
    if missing is not None and missing.any():
        count -= np.add.reduceat(missing.sum(axis=2, dtype=np.float64), starts, axis=0)
    return count


def kind_of(dataset: Dataset, standardise: Standardise) -> Kind:
    """The kind that `auto` stands for: tables by feature, images by channel, text not at all.

    Raises ConfigError for a kind that the data set does not have.
    """
    images, text = dataset.x.ndim == 4, dataset.task == "next-character"
    if standardise == "auto":
        return "none" if text else "channel" if images else "feature"
    if standardise == "channel" and not images:
        raise ConfigError(
            f"--standardise channel needs images; '{dataset.name}' has examples of shape {dataset.x.shape[1:]}",
            hint="Use --standardise feature, or none.",
        )
    if standardise == "unit" and not (images and dataset.x.dtype == np.uint8):
        raise ConfigError(
            f"--standardise unit needs images of bytes; '{dataset.name}' has {dataset.x.dtype} examples of shape "
            f"{dataset.x.shape[1:]}",
            hint="Use --standardise auto.",
        )
    if standardise == "feature" and text:
        raise ConfigError("--standardise feature does not apply to text", hint="Use --standardise none.")
    return standardise


@dataclass(slots=True)
class Statistics:
    """Collects the statistics while training rows stream by; `result` is what the manifest records."""

    dataset: Dataset
    kind: Kind
    _x: Moments | None = field(init=False)
    _y: Moments | None = field(init=False)

    def __post_init__(self) -> None:
        shape = self.dataset.x.shape[1:]
        sizes = {"feature": math.prod(shape), "channel": shape[0] if shape else 0}
        self._x = Moments(sizes[self.kind]) if self.kind in sizes else None
        self._y = Moments(1) if self.kind != "none" and self.dataset.task == "regression" else None

    def add(self, x: npt.NDArray[Any], y: npt.NDArray[Any], client: IntArray) -> None:
        """Training rows of some clients, sorted by client; a client may come in several parts."""
        if len(client) == 0:
            return
        if self._x is not None:
            self._x.merge(*moments_of(x.reshape(len(x), self._x.size, -1), client))
        if self._y is not None:
            self._y.merge(*moments_of(y.reshape(len(y), 1, 1), client))

    def result(self) -> Standardisation:
        """The statistics. Raises DataError where values are infinite or too large for float32."""
        target = self._target()
        if self.kind == "unit":
            channels = self.dataset.x.shape[1]
            return Standardisation("channel", (0.0,) * channels, (PIXEL_MAX,) * channels, target)
        if self._x is None or self.kind == "none":
            return Standardisation("none", target=target)
        shift, scale = self._x.shift_and_scale()
        self._refuse_infinite(shift, scale)
        if self.kind == "feature" and self.dataset.numeric is not None:
            left = np.setdiff1d(np.arange(self._x.size), np.asarray(self.dataset.numeric, np.int64))
            shift[left], scale[left] = 0, 1
        return Standardisation(self.kind, tuple(shift.tolist()), tuple(scale.tolist()), target)

    def _target(self) -> TargetScale | None:
        if self._y is None:
            return None
        shift, scale = (float(value[0]) for value in self._target_moments(self._y))
        if not (math.isfinite(shift) and math.isfinite(scale)):
            raise DataError("the target has values that are infinite or too large for float32")
        return TargetScale(shift, scale)

    def _target_moments(self, moments: Moments) -> Batch:
        if self.dataset.y.dtype == np.float32:
            return moments.shift_and_scale()
        # Targets that 32 bits merge, near 1e9 for example: the mean must not be rounded either.
        deviation = np.sqrt(moments.squares / np.maximum(moments.count, 1))
        return moments.mean, np.where(deviation > 0, deviation, 1.0)

    def _refuse_infinite(self, shift: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> None:
        bad = np.flatnonzero(~(np.isfinite(shift) & np.isfinite(scale)))
        if bad.size:
            features = self.dataset.features
            first = int(bad[0])
            name = f"'{features[first]}'" if first < len(features) else f"number {first}"
            raise DataError(
                f"{self.kind} {name} has values that are infinite or too large for float32",
                hint="Clean the column, drop it with --drop, or use --standardise none.",
            )


class Standardiser:
    """Applies recorded statistics to rows as they are read."""

    def __init__(self, done: Standardisation, shape: tuple[int, ...]) -> None:
        self._target = done.target
        self._shift: npt.NDArray[np.float32] | None = None
        if done.kind != "none":
            entry = shape if done.kind == "feature" else (-1, 1, 1)
            self._shift = np.asarray(done.shift, np.float32).reshape(entry)
            self._scale = np.asarray(done.scale, np.float32).reshape(entry)

    def x(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """x [n, ...] as models get it: float32, C-contiguous, (x - shift) / scale, 0 where a value is missing."""
        return self.x_into(x, np.empty(x.shape, np.float32))

    def x_into(self, x: npt.NDArray[Any], result: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same, written into `result` [n, ...], which may be x itself."""
        if self._shift is None and x is result:
            pass
        elif self._shift is None:
            np.copyto(result, x, casting="same_kind" if x.dtype.kind == "f" else "unsafe")
        else:
            np.subtract(x, self._shift, out=result, dtype=np.float32, casting="unsafe")
            result /= self._scale
        flat = result.reshape(-1)
        if x.dtype.kind == "f" and np.isnan(np.dot(flat, flat)):  # one product tells whether there is a NaN to look for
            np.copyto(result, np.float32(0), where=np.isnan(result))
        return result

    def target(self, y: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Regression targets [n] as models get them: float32 (y - shift) / scale, in the precision of y."""
        if self._target is not None and y.dtype == np.float64:
            return ((y - self._target.shift) / self._target.scale).astype(np.float32)
        result = np.array(y, np.float32)
        if self._target is not None:
            result -= np.float32(self._target.shift)
            result /= np.float32(self._target.scale)
        return result

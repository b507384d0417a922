"""Feature skew: the same labels, seen through each client's own instrument."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.errors import DataError
from flctl.partition.partitioner import Rows
from flctl.partition.schemes.altering import Altering, AlteringOptions
from flctl.partition.schemes.options import Numbers
from flctl.partition.schemes.rotation import rotate
from flctl.types import FloatArray

__all__ = ["FeatureNoise", "FeatureRotation", "FeatureScaling"]

Values = npt.NDArray[Any]
CHUNK_BYTES = 1 << 25


class FeatureRotation(Altering):
    """Images turned by a client's own angle (rotated MNIST of Ghosh et al. 2020, IFCA, section 6).

    Client k turns by `angles[k mod len(angles)]` degrees, counter-clockwise, train and test rows alike. Multiples
    of 90 are exact on square images; other angles interpolate, dtype kept.
    """

    name = "feature-rotation"

    class Config(AlteringOptions):
        angles: Annotated[
            Numbers, Field(min_length=1, description="Angles in degrees, assigned to clients in turn")
        ] = (
            0.0,
            90.0,
            180.0,
            270.0,
        )

    def prepare(self, rows: Rows) -> None:
        if rows.x is None or rows.x.ndim != 4:
            shape = "none" if rows.x is None else str(list(rows.x.shape[1:]))
            raise DataError(
                f"only images [channels, height, width] can be rotated; an example has shape {shape}",
                hint="Use --scheme feature-noise or feature-scaling.",
            )

    def alter(self, x: Values, y: Values, client: int, clients: int, rng: np.random.Generator) -> tuple[Values, Values]:
        return rotate(x, self.config.angles[client % len(self.config.angles)]), y


class _Instrument(Altering):
    """Common part of noise and scaling: the unit of each feature, and which features are numbers."""

    unit: npt.NDArray[np.float32] | None = None

    def prepare(self, rows: Rows) -> None:
        if rows.x is None or not (rows.x.dtype == np.uint8 or np.issubdtype(rows.x.dtype, np.floating)):
            found = "none" if rows.x is None else str(rows.x.dtype)
            raise DataError(f"scheme '{self.name}' needs numeric features, found {found}", hint="Use another scheme.")
        self.unit = feature_units(rows.x, rows.numeric)

    def _unit(self) -> npt.NDArray[np.float32]:
        if self.unit is None:
            raise DataError(f"scheme '{self.name}' alters rows only after `assign`", hint="Call `assign` first.")
        return self.unit


class FeatureNoise(_Instrument):
    """Gaussian noise that grows with the client (Li et al. 2022, NIID-Bench, "noise-based feature imbalance").

    Client k's noise has the standard deviation sigma * (k + 1) / K, in units of each feature's standard deviation
    over all rows (images: each channel's), or of the full range 255 for bytes, which are rounded and clipped.
    Features that are not numeric (one-hot) and missing values stay as they are.
    """

    name = "feature-noise"

    class Config(AlteringOptions):
        sigma: Annotated[float, Field(ge=0, le=100, description="Standard deviation of the last client's noise")] = 0.1

    def alter(self, x: Values, y: Values, client: int, clients: int, rng: np.random.Generator) -> tuple[Values, Values]:
        level = np.float32(self.config.sigma * (client + 1) / clients)
        return _fit(x + level * self._unit() * rng.standard_normal(x.shape, np.float32), x.dtype), y


class FeatureScaling(_Instrument):
    """Features times a client's own gain, as of differing sensors (covariate shift, Kairouz et al. 2021, section 3.1).

    Gains go from `low` to `high` in equal ratios over the clients, the same for all numeric features; one client
    alone has their geometric mean. Bytes are rounded and clipped at 255; features that are not numeric (one-hot)
    stay as they are.
    """

    name = "feature-scaling"

    class Config(AlteringOptions):
        low: Annotated[float, Field(gt=0, le=1e3, description="Factor of the first client")] = 0.5
        high: Annotated[float, Field(gt=0, le=1e3, description="Factor of the last client")] = 2.0

    def alter(self, x: Values, y: Values, client: int, clients: int, rng: np.random.Generator) -> tuple[Values, Values]:
        position = client / (clients - 1) if clients > 1 else 0.5
        gain = self.config.low * (self.config.high / self.config.low) ** position
        return _fit(x * np.where(self._unit() > 0, np.float32(gain), np.float32(1)), x.dtype), y


def feature_units(x: Values, numeric: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
    """The standard deviation of each feature [features] (images: of each channel [channels, 1, 1]), missing
    values aside; 255 for bytes; 0 for features that are not numeric."""
    shape = (x.shape[1], *(1,) * (x.ndim - 2))
    if x.dtype == np.uint8:
        unit = np.full(shape, 255.0)
    else:
        unit = _spread(x).reshape(shape)
    if numeric is not None and x.ndim == 2:
        others = np.setdiff1d(np.arange(x.shape[1]), np.asarray(numeric, np.int64))
        unit[others] = 0.0
    return unit.astype(np.float32)


def _spread(x: Values) -> FloatArray:
    """Standard deviation along axis 1's features, chunk by chunk and merged (Chan et al. 1983), NaN left out."""
    count = np.zeros(x.shape[1])
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    others = (0, *range(2, x.ndim))
    step = max(1, CHUNK_BYTES // max(1, x[:1].size * 8))
    for start in range(0, len(x), step):
        chunk = x[start : start + step].astype(np.float64)
        present = np.isfinite(chunk)
        n = present.sum(axis=others)
        chunk_mean = np.where(present, chunk, 0).sum(axis=others) / np.maximum(n, 1)
        centred = np.where(present, chunk - chunk_mean.reshape(-1, *(1,) * (x.ndim - 2)), 0)
        total, shift = np.maximum(count + n, 1), chunk_mean - mean
        squares += (centred**2).sum(axis=others) + shift**2 * count * n / total
        mean += np.where(n > 0, shift * n / total, 0)
        count += n
    return np.sqrt(squares / np.maximum(count, 1))


def _fit(values: Values, dtype: np.dtype[Any]) -> Values:
    if dtype == np.uint8:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return values.astype(dtype, copy=False)

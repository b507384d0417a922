"""Arrays as examples: checked for NaN and infinity, and images as channels first."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.errors import DataError, IntegrityError, counted
from flctl.types import FloatArray

__all__ = [
    "Layout",
    "as_examples",
    "channels_first",
    "checked_size",
    "refuse_nonfinite",
    "same_count",
    "to_float32",
]

Layout = Literal["auto", "nchw", "nhwc", "keep"]
CHUNK_BYTES = 1 << 24


def as_examples(
    x: npt.NDArray[Any], name: str, layout: Layout = "auto", offsets: FloatArray | None = None
) -> npt.NDArray[Any]:
    """`x` [n, ...] as uint8 (kept) or float32 less `offsets`, images as [n, channels, height, width].

    Raises DataError for types that are no numbers and for NaN or infinite values, with their place.
    """
    if x.ndim == 0 or x.dtype.kind not in "biuf":
        raise DataError(f"{name} has type {x.dtype} and shape {x.shape}; expected numbers [rows, ...]")
    if 0 in x.shape:
        raise DataError(f"{name} is empty: its shape is {x.shape}")
    x = x.reshape(-1, 1) if x.ndim == 1 else channels_first(x, name, layout)
    return np.ascontiguousarray(x) if x.dtype == np.uint8 else to_float32(x, name, offsets=offsets)


def channels_first(x: npt.NDArray[Any], name: str, layout: Layout) -> npt.NDArray[Any]:
    """Images [n, h, w], [n, h, w, c] or [n, c, h, w] as [n, c, h, w]; anything else as it is."""
    if x.ndim == 3 and layout != "keep":
        return x[:, None]
    if x.ndim != 4 or layout in ("keep", "nchw"):
        return x
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if layout == "auto" and first and last:
        raise DataError(
            f"{name} of shape {x.shape} can be read as channels first or channels last",
            hint="Use --layout nchw or --layout nhwc.",
        )
    return x.transpose(0, 3, 1, 2) if layout == "nhwc" or last else x


def to_float32(
    x: npt.NDArray[Any], name: str, first_row: int = 0, offsets: FloatArray | None = None
) -> npt.NDArray[np.float32]:
    """A float32 copy, less `offsets`, made a slice at a time: a memory-mapped source is never whole in memory twice.

    Raises DataError for NaN and infinity, rows being counted from `first_row`.
    """
    out = np.empty(x.shape, np.float32)
    step = max(1, CHUNK_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        with np.errstate(over="ignore", invalid="ignore"):
            part = x[start : start + step]
            out[start : start + step] = part if offsets is None else part - offsets
        refuse_nonfinite(out[start : start + step], name, first_row + start)
    return out


def refuse_nonfinite(x: npt.NDArray[Any], name: str, first_row: int = 0) -> None:
    """Raises DataError naming the first row and column of `x` [n, ...] that is NaN or infinite."""
    # The sum of finite float32 values in float64 is finite, and one pass needs no array of booleans.
    with np.errstate(invalid="ignore"):
        total = x.sum(dtype=np.float64)
    if np.isfinite(total):
        return
    index = np.argwhere(~np.isfinite(x))[0]
    row, rest = int(index[0]) + first_row, [int(i) for i in index[1:]]
    where = f"column {rest[0]}" if len(rest) == 1 else f"position {rest}"
    raise DataError(
        f"{name}, row {row}, {where}: {x[tuple(index)]} is not a finite 32-bit number",
        hint="Fill or drop such rows first; only tables may have missing values.",
    )


def same_count(images: int, labels: int, name: str) -> None:
    """Raises DataError if examples and labels do not pair up."""
    if images != labels:
        raise DataError(
            f"{name}: {counted(images, 'example')} and {counted(labels, 'label')}",
            hint="Check that the two files belong together.",
        )


def checked_size(shape: tuple[int, ...], itemsize: int, room: int, name: str) -> int:
    """The bytes that a header of `shape` declares. Raises IntegrityError if it is more than `room`."""
    if any(side < 0 for side in shape):
        raise IntegrityError(f"{name}: the header declares a negative size {shape}")
    declared = itemsize
    for side in shape:
        declared *= side
    if declared > room:
        raise IntegrityError(
            f"{name} declares {declared:,} bytes of shape {shape}, and the file can hold at most {room:,}",
            hint="The file is truncated, or its header is wrong.",
        )
    return declared

"""Numbers that 32-bit floats cannot tell apart, such as timestamps, and the offsets that bring them near zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.data.preprocessing import FittedPreprocessing, InputColumn, Inputs
from flctl.types import FloatArray

__all__ = ["SAMPLE", "column_offsets", "merges", "middle", "offset_note", "offsets_of", "with_offsets"]

SAMPLE = 1024
"""Values looked at."""
LOST = 0.01
"""Fraction of distinct values that may become equal by chance."""
ERROR = 1e-4
"""Largest rounding error, as a fraction of the range of the values."""


def merges(values: npt.NDArray[Any], offset: float = 0.0) -> bool:
    """True if float32 loses what tells `values` [n] apart: distinct ones become equal, or errors near their range.

    At most 1,024 values are looked at. They are float64 or integers; NaN is missing, and `offset` is subtracted first.

    >>> merges(np.array([1.7e12, 1.7e12 + 1000.0]))
    True
    >>> merges(np.array([1.7e12, 1.7e12 + 1000.0]), offset=1.7e12)
    False
    """
    sample = _sample(values)
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = sample - offset
        narrow = shifted.astype(np.float32)
        if not sample.size or not np.isfinite(narrow).all() or (narrow == shifted).all():
            return False
        distinct = np.unique(shifted)
        narrow = distinct.astype(np.float32)
    lost = int((np.diff(narrow) == 0).sum())
    error, spread = float(np.abs(distinct - narrow).max()), float(distinct[-1] - distinct[0])
    return lost > LOST * len(distinct) or error > ERROR * spread > 0


def middle(values: npt.NDArray[Any]) -> float:
    """The median of the values that `merges` looks at: an offset that is a value of the column, or near to one."""
    return float(np.median(_sample(values)))


def column_offsets(x: npt.NDArray[Any]) -> FloatArray | None:
    """Offsets [k] of a table x [n, k], 0 for columns that float32 holds; None if all are 0."""
    if x.ndim != 2 or x.dtype.kind not in "iuf" or x.dtype.itemsize < 4 or x.dtype == np.float32:
        return None
    head = np.array(x[:SAMPLE])
    offsets = np.array([middle(column) if merges(column) else 0.0 for column in head.T])
    return offsets if offsets.any() else None


def with_offsets(dataset: Dataset, offsets: FloatArray | None) -> Dataset:
    """The data set [n, k] whose numbers count from `offsets` [k]: they are kept in its inputs, with a note."""
    if offsets is None or not offsets.any():
        return dataset
    names = dataset.features or tuple(f"feature_{index}" for index in range(len(offsets)))
    columns = tuple(InputColumn(n, "number", offset=o) for n, o in zip(names, offsets.tolist(), strict=True))
    moved = [(column.name, column.offset) for column in columns if column.offset]
    notes = (*dataset.notes, offset_note(moved))
    return replace(dataset, features=names, inputs=Inputs(columns), notes=notes)


def offsets_of(fitted: FittedPreprocessing) -> npt.NDArray[np.float64] | None:
    """Offsets [k] that a fitted table of numbers counts from; None if all are 0."""
    columns = () if fitted.inputs is None else fitted.inputs.columns
    offsets = np.array([column.offset for column in columns if column.kind == "number"])
    return offsets if offsets.any() else None


def offset_note(moved: Sequence[tuple[str, float]]) -> str:
    """Note on columns and their offsets."""
    listed = ", ".join(f"'{name}' from {offset!r}" for name, offset in moved)
    return f"float32 cannot distinguish their values, so an offset is subtracted: {listed}"


def _sample(values: npt.NDArray[Any]) -> FloatArray:
    sample = values[:SAMPLE].astype(np.float64)
    return sample[np.isfinite(sample)]

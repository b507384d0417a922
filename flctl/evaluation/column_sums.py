"""Statistics of columns by sums that add up over clients without rounding, in whatever order and split.

Each value is float32, a whole number of 2^-149; sums of values and of their squares are integers of such units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import ProtocolError, counted

__all__ = ["BITS", "ColumnStatistics", "ColumnSums"]

_UNIT = 149
_SIGNIFICANT = 24
_LARGEST = 2 * (128 + 149)
BITS = 736
"""Bits of a sum: squares of float32 take 2 (128 + 149) of them, the number of rows some more."""


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Per column: how many values, their mean, and the sum of squared deviations from it (float64)."""

    count: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """Sums of the columns of rows [n, columns]: how many values are present, their sum, the sum of their squares."""

    columns: int

    @property
    def size(self) -> int:
        """Number of sums."""
        return 3 * self.columns

    def of(self, x: npt.NDArray[Any]) -> list[int]:
        """Returns the sums over rows [n, ...] of numbers. NaN is missing; infinite values are left out too."""
        table = np.asarray(x, np.float32).reshape(len(x), self.columns)
        found: list[int] = []
        for column in table.T:
            values = column[np.isfinite(column)]
            found += [len(values), _exact_sum(values, 1), _exact_sum(values, 2)]
        return found

    def check(self, sums: Sequence[int], most: float) -> None:
        """Raises ProtocolError for sums that at most `most` rows of float32 cannot have, such as a negative count."""
        for start in range(0, len(sums), 3):
            count, total, squares = sums[start : start + 3]
            if not 0 <= count <= most or not total * total <= count * squares or squares > count << _LARGEST:
                raise ProtocolError(f"the reply has sums of a column that {counted(int(most), 'row')} cannot have")

    def statistics(self, sums: Sequence[int]) -> ColumnStatistics:
        """Returns the statistics of all rows from the sums over clients; NaN for a column without values."""
        triples = [sums[start : start + 3] for start in range(0, len(sums), 3)]
        columns = [_moments(count, total, squares) for count, total, squares in triples]
        count, mean, squares = (np.array(part, np.float64) for part in zip(*columns, strict=True))
        return ColumnStatistics(count, mean, squares)


def _exact_sum(values: npt.NDArray[np.float32], power: int) -> int:
    """Returns the sum of values, or of their squares, in units of 2^(-149 power), without rounding."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    whole = np.ldexp(fraction, _SIGNIFICANT).astype(np.int64) ** power  # at most 48 bits
    total = 0
    for one in np.unique(exponent).tolist():
        part = whole[exponent == one]
        low, high = int((part & 0xFFFFFF).sum()), int((part >> 24).sum())
        shift = power * (one - _SIGNIFICANT + _UNIT)
        total += ((high << 24) + low) << shift if shift >= 0 else ((high << 24) + low) >> -shift
    return total


def _moments(count: int, total: int, squares: int) -> tuple[float, float, float]:
    if not count:
        return 0.0, math.nan, math.nan
    mean = Fraction(total, count << _UNIT)
    deviation = Fraction(squares, 1 << (2 * _UNIT)) - mean * mean * count
    return float(count), float(mean), float(deviation)

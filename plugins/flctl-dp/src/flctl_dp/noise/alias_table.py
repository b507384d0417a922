"""The discrete Gaussian as an alias table of whole numbers: 128 bits and more for every probability, no float."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl_dp.noise.entropy import Words

__all__ = ["AliasTable", "alias_table", "discrete_gaussian_table", "masses"]

_FRACTION = 320
"""Bits behind the point while masses are computed; what is lost on the way is below 2^-290."""
_LOW = 64
"""Bits of a threshold below those that are compared first."""
_DEPTH = 128
"""Bits of a threshold."""
_PART = 1 << 16
"""Draws made at once, so that what is between them stays in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class AliasTable:
    """Walker's alias method (1977) over 2^`bits` columns whose thresholds have 128 bits.

    Column i stands for the whole number `first` + i with probability `threshold` / 2^128, and for `alias[i]` otherwise.
    `high` [columns] holds the upper 64 bits of the thresholds, `low` the lower ones: these decide where the upper bits
    are equal, which happens once in 2^64 draws, and are then drawn too. So each number has exactly the probability that
    the integer masses say.
    """

    bits: int
    high: npt.NDArray[np.uint64]
    low: tuple[int, ...]
    values: npt.NDArray[np.int64]
    """[2, columns]: what a column stands for at and above its threshold, and below it."""

    def draw(self, words: Words, count: int) -> npt.NDArray[np.int64]:
        """`count` numbers [count]."""
        drawn = np.empty(count, np.int64)
        for start in range(0, count, _PART):
            part = drawn[start : start + _PART]
            self._fill(words, part)
        return drawn

    def _fill(self, words: Words, out: npt.NDArray[np.int64]) -> None:
        columns = (words.draw(len(out), np.uint16) & np.uint16((1 << self.bits) - 1)).astype(np.intp)
        chance = words.draw(len(out))
        limit = self.high[columns]
        own = chance < limit
        for column in np.flatnonzero(chance == limit):
            own[column] = int(words.draw(1)[0]) < self.low[columns[column]]
        np.take(self.values.ravel(), columns + (own.astype(np.intp) << self.bits), out=out)


def masses(s: int, reach: int) -> list[int]:
    """2^320 exp(-i^2 / 2 s^2) for i in 0 ... reach, each right to a part in 2^290.

    By m_{i+1} = m_i r_i and r_{i+1} = r_i exp(-1 / s^2), in whole numbers.
    """
    one = 1 << _FRACTION
    step, ratio = _exp_minus(1, s * s), _exp_minus(1, 2 * s * s)
    found, mass = [], one
    for _ in range(reach + 1):
        found.append(mass)
        mass, ratio = (mass * ratio) >> _FRACTION, (ratio * step) >> _FRACTION
    return found


def _exp_minus(numerator: int, denominator: int) -> int:
    """2^320 exp(-numerator / denominator), by its series."""
    total, term, order = 0, 1 << _FRACTION, 0
    while term:
        total += -term if order % 2 else term
        order += 1
        term = term * numerator // (denominator * order)
    return total


@lru_cache(maxsize=4)
def discrete_gaussian_table(s: int, bits: int = 15) -> AliasTable:
    """The table of P(x) proportional to exp(-x^2 / 2 s^2) on the whole numbers, for `s` of at most 2^bits / 28.

    The columns reach past 14 s on either side, where the mass that is left out is below 2^-140.
    """
    reach = (1 << bits) // 2 - 1
    if s < 1 or reach < 14 * s or bits > 16:
        raise ValueError(f"a table of 2^{bits} entries is too small for the standard deviation {s}")
    return alias_table(masses(s, reach), bits)


def alias_table(half: list[int], bits: int) -> AliasTable:
    """The table of a symmetric distribution on the whole numbers, of 2^bits columns: `half` [2^(bits - 1)] are numbers
    in proportion to the probabilities of 0, 1, 2 ..."""
    columns, reach = 1 << bits, len(half) - 1
    weights = [*half[:0:-1], *half, 0]  # -reach ... reach, and one column that stands for nothing by itself
    return _alias(_whole(weights, columns << _DEPTH, reach), reach, bits)


def _whole(weights: list[int], total: int, centre: int) -> list[int]:
    """Masses in proportion to `weights` that sum to `total` exactly; the rest of rounding down goes to the centre."""
    sum_of_weights = sum(weights)
    scaled = [weight * total // sum_of_weights for weight in weights]
    scaled[centre] += total - sum(scaled)
    return scaled


def _alias(scaled: list[int], reach: int, bits: int) -> AliasTable:
    """Vose's construction (1991), in whole numbers: each column is filled to 2^128 by one other."""
    full = 1 << _DEPTH
    left, other = list(scaled), list(range(len(scaled)))
    small = [column for column, mass in enumerate(left) if mass < full]
    large = [column for column, mass in enumerate(left) if mass >= full]
    while small:
        poor, rich = small.pop(), large[-1]
        other[poor] = rich
        left[rich] -= full - left[poor]
        if left[rich] < full:
            small.append(large.pop())
    keep = [mass if other[column] != column else full for column, mass in enumerate(left)]
    high = [min(mass >> _LOW, (1 << _LOW) - 1) for mass in keep]
    own = np.arange(len(scaled), dtype=np.int64) - reach
    values: Any = np.stack([own[other], own])
    return AliasTable(
        bits, np.array(high, np.uint64), tuple(mass - (h << _LOW) for mass, h in zip(keep, high, strict=True)), values
    )

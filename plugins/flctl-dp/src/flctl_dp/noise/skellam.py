"""The Skellam distribution as an alias table: the difference of two Poisson numbers, for noise that adds up."""

from __future__ import annotations

import math
from functools import lru_cache

from flctl_dp.noise.alias_table import AliasTable, alias_table

__all__ = ["skellam_masses", "skellam_table"]

_START = 420
"""Bits of the first number of the recurrence: rounding each down loses a part in 2^400 of it."""


def skellam_masses(variance: int, reach: int) -> list[int]:
    """Numbers in proportion to I_i(variance) for i in 0 ... reach: the probabilities of +-i under the Skellam
    distribution of mean 0 and this variance are e^(-variance) I_i(variance).

    By Miller's recurrence I_{i-1} = I_{i+1} + (2 i / variance) I_i, downwards from where nothing is left, in whole
    numbers (Gautschi 1967). All numbers grow on the way down, so that what was rounded off vanishes beside them.
    """
    top = max(reach + reach // 4, 20 * math.isqrt(variance) + 400)
    above, here, found = 0, 1 << _START, [0] * (reach + 1)
    for index in range(top, 0, -1):
        above, here = here, above + 2 * index * here // variance
        if index <= reach + 1:
            found[index - 1] = here
    return found


@lru_cache(maxsize=4)
def skellam_table(s: int, bits: int = 15) -> AliasTable:
    """The table of the Skellam distribution of variance s^2 on the whole numbers, for `s` of at most 2^bits / 28.

    The columns reach past 14 s and past 14 + 14 s on either side; for bits = 15 the mass left out is below 2^-140.
    """
    reach = (1 << bits) // 2 - 1
    if s < 1 or reach < 14 * s or bits > 16:
        raise ValueError(f"a table of 2^{bits} entries is too small for the standard deviation {s}")
    used = min(reach, 40 * s + 400)
    return alias_table([*skellam_masses(s * s, used), *[0] * (reach - used)], bits)

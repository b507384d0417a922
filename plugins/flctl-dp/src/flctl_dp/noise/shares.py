"""A client's share of the noise: whole numbers of a variance that their distribution can be drawn with."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from flctl_dp.noise.alias_table import AliasTable, discrete_gaussian_table
from flctl_dp.noise.entropy import Words
from flctl_dp.noise.skellam import skellam_table

__all__ = ["MECHANISMS", "Mechanism", "drawn_share", "variances"]

Mechanism = Literal["discrete-gaussian", "skellam"]
MECHANISMS: tuple[str, ...] = get_args(Mechanism)
_S = 1024
"""The largest standard deviation of one draw of a table."""
_COARSEST, _MOST = 400, 16
"""The largest step of the coarser of two draws (see noise.py), and how many Skellam numbers are added up at most."""


def variances(mechanism: Mechanism) -> list[int]:
    """The variances that `drawn_share` knows, ascending.

    Up to 1024^2 each square is one draw of a table. Beyond, a discrete Gaussian is X + K Y of two draws, of variance
    1024^2 (1 + K^2), right to 2^-185 of each probability (see `noise.wide_discrete_gaussian`); a Skellam number is the
    sum of several, exactly.
    """
    table = [s * s for s in range(1, _S + 1)]
    if mechanism == "skellam":
        return table + [count * _S * _S for count in range(2, _MOST + 1)]
    return table + [_S * _S * (1 + step * step) for step in range(1, _COARSEST + 1)]


def drawn_share(mechanism: Mechanism, variance: int, words: Words, count: int) -> npt.NDArray[np.int64]:
    """`count` draws [count] of the mechanism's distribution of this variance, one of `variances`. Raises ValueError for
    another one."""
    if variance not in variances(mechanism):
        raise ValueError(f"no noise can be drawn with the variance {variance}")
    draws = variance // (_S * _S)
    if draws <= 1:
        return _table(mechanism, math.isqrt(variance)).draw(words, count)
    table = _table(mechanism, _S)
    drawn = table.draw(words, count)
    if mechanism == "skellam":
        for _ in range(draws - 1):
            drawn += table.draw(words, count)
    else:
        drawn += math.isqrt(draws - 1) * table.draw(words, count)
    return drawn


def _table(mechanism: Mechanism, s: int) -> AliasTable:
    return skellam_table(s) if mechanism == "skellam" else discrete_gaussian_table(s)

"""The coordinate-wise median and trimmed mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Least, Robust, by_column, trimmed
from flctl.types import Arrays, ClientUpdate

_ROUNDING = 1e-9
"""Tolerance of floor(trim n): 0.29 of 100 updates is 28.999999999999996 in floating point, and means 29."""


class FedMedian(Robust):
    """Median of the clients' changes, coordinate by coordinate, unweighted (Yin et al. 2018, Algorithm 1)."""

    name = "fedmedian"

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        return by_column(rows, partial(trimmed, cut=(len(rows) - 1) // 2))


class FedTrimmedAvg(Robust):
    """Mean of each coordinate without its extremes, unweighted (Yin et al. 2018, Algorithm 1, option II).

    floor(trim n) values are left out at either end, n being the number of updates that arrived. As many malicious
    clients are tolerated. `trim` 0 is the unweighted mean. A positive `trim` that would leave out no value is refused,
    because the mean of such a cohort has no protection.
    """

    name = "fedtrimmedavg"

    class Config(Robust.Config):
        trim: float = Field(0.2, ge=0, lt=0.5, description="Fraction of the values left out at either end.")

    def least(self) -> Least:
        return Least(math.ceil(1 / self.config.trim - _ROUNDING), "1 / trim") if self.config.trim else super().least()

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        cut = min(math.floor(self.config.trim * len(rows) + _ROUNDING), (len(rows) - 1) // 2)
        return by_column(rows, partial(trimmed, cut=cut))

"""The coordinate-wise median and trimmed mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Least, Robust, by_column, trimmed
from flctl.types import Arrays, ClientUpdate

_ROUNDING = 1e-9
"""So that 0.29 of 100 updates, 28.999999999999996 in floating point, are 29."""


class FedMedian(Robust):
    """Median of the clients' changes, coordinate by coordinate, unweighted (Yin et al. 2018, Algorithm 1)."""

    name = "fedmedian"

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        return by_column(rows, partial(trimmed, cut=(len(rows) - 1) // 2))


class FedTrimmedAvg(Robust):
    """Mean of each coordinate without its extremes, unweighted (Yin et al. 2018, Algorithm 1, option II).

    floor(trim n) values are left out at either end, n being the number of updates that arrived, so up to that many
    malicious clients are borne. `trim` 0 is the unweighted mean; a positive `trim` that would leave nothing out is
    refused, because the mean of so few updates has no protection.
    """

    name = "fedtrimmedavg"

    class Config(Robust.Config):
        trim: float = Field(0.2, ge=0, lt=0.5, description="Share of the values that is left out at either end.")

    def least(self) -> Least:
        return Least(math.ceil(1 / self.config.trim - _ROUNDING), "1 / trim") if self.config.trim else super().least()

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        cut = min(math.floor(self.config.trim * len(rows) + _ROUNDING), (len(rows) - 1) // 2)
        return by_column(rows, partial(trimmed, cut=cut))

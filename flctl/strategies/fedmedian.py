"""The coordinate-wise median."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flctl.strategy import Strategy
from flctl.types import Arrays, ClientUpdate


class FedMedian(Strategy):
    """Median of the clients' changes, coordinate by coordinate, unweighted (Yin et al. 2018, Algorithm 1)."""

    name = "fedmedian"

    def combine(self, updates: Sequence[ClientUpdate]) -> Arrays:
        return {"delta": np.median([update.arrays["delta"] for update in updates], axis=0)}

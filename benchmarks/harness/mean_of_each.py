"""A plugin for the benchmarks: a strategy that reads each client's update, as a median would, and means them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

import flctl


class MeanOfEach(flctl.Strategy):
    """The weighted mean, from single updates: FedAvg's model by the path of a strategy that overrides `combine`."""

    name = "mean-of-each"

    def combine(self, updates: Sequence[flctl.ClientUpdate]) -> flctl.Arrays:
        total = sum(update.weight for update in updates)
        mean = np.zeros_like(updates[0].arrays["delta"])
        for update in updates:
            mean += np.float32(update.weight / total) * update.arrays["delta"]
        return {"delta": mean}


@flctl.hookimpl
def flctl_strategies() -> Iterable[type[flctl.Strategy]]:
    """The strategy."""
    return [MeanOfEach]

"""Krum and the rules built on it: updates are selected by the distances to their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Block, Least, Robust, Weighing, by_column, distances, products
from flctl.types import Arrays, ClientUpdate, FloatArray, IntArray

_MALICIOUS = "Number of malicious clients per cohort that the rule tolerates."


def scores(squared: FloatArray, neighbours: int) -> FloatArray:
    """Returns Krum's scores [n]: the sum of each update's squared distances [n, n] to its `neighbours` nearest
    others."""
    n = len(squared)
    others = squared[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return np.asarray(np.sort(others, axis=1)[:, :neighbours].sum(axis=1))


def best(squared: FloatArray, num_malicious: int, count: int) -> IntArray:
    """Returns the `count` updates of lowest score, the best first; ties are broken by the order of the updates."""
    order = np.argsort(scores(squared, len(squared) - num_malicious - 2), kind="stable")
    return order[:count]


class Krum(Weighing):
    """The one update whose n - f - 2 nearest neighbours are nearest to it (Blanchard et al. 2017, section 4: Krum).

    Unweighted. Needs n >= 2 f + 3 updates for f = `num_malicious`. Ties go to the first client by id.
    """

    name = "krum"

    class Config(Weighing.Config):
        num_malicious: int = Field(1, ge=0, description=_MALICIOUS)

    def least(self) -> Least:
        return Least(2 * self.config.num_malicious + 3, "2 num_malicious + 3")

    def selected(self, n: int) -> int:
        """Returns the number of updates, of n, that are averaged."""
        return 1

    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        chosen = best(distances(products(rows)), self.config.num_malicious, self.selected(len(rows)))
        coefficients = np.zeros(len(rows))
        coefficients[chosen] = 1 / len(chosen)
        return coefficients


class MultiKrum(Krum):
    """Unweighted mean of the updates of the best Krum scores (Blanchard et al. 2017, section 4: Multi-Krum).

    m = `num_selected` updates are averaged: 1 is Krum, n the mean. Needs n >= 2 f + 3 updates, and at least m.
    """

    name = "multikrum"

    class Config(Krum.Config):
        num_selected: int | None = Field(
            None, ge=1, description="Number of updates that are averaged; null: all but `num_malicious`."
        )

    def least(self) -> Least:
        m = self.config.num_selected
        return Least(m, "num_selected") if m and m > super().least().updates else super().least()

    def selected(self, n: int) -> int:
        return int(self.config.num_selected or n - self.config.num_malicious)


class Bulyan(Robust):
    """Of n - 2 f updates that Krum selects, the mean near the median (El Mhamdi et al. 2018, Bulyan of Krum).

    Krum selects theta = n - 2 f updates, one after the other, from those that are left. Then each coordinate is the
    unweighted mean of the theta - 2 f values nearest to its median. Needs n >= 4 f + 3 updates. The last selections are
    among fewer than 2 f + 3 updates; at least one neighbour is counted. Of two values equally far from the median the
    smaller is taken.
    """

    name = "bulyan"

    class Config(Robust.Config):
        num_malicious: int = Field(1, ge=0, description=_MALICIOUS)

    def least(self) -> Least:
        return Least(4 * self.config.num_malicious + 3, "4 num_malicious + 3")

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        f = self.config.num_malicious
        chosen = one_by_one(distances(products(rows)), f, len(rows) - 2 * f)
        return by_column([rows[index] for index in chosen], lambda block: near_median(block, len(chosen) - 2 * f))


def one_by_one(squared: FloatArray, num_malicious: int, count: int) -> list[int]:
    """Returns the `count` updates, ascending, that Krum selects if each selection is removed before the next."""
    left = np.arange(len(squared))
    while len(left) > len(squared) - count:
        neighbours = max(len(left) - num_malicious - 2, 1)
        left = np.delete(left, np.argmin(scores(squared[np.ix_(left, left)], neighbours)))
    return sorted(set(range(len(squared))) - set(left.tolist()))


def near_median(block: Block, count: int) -> FloatArray:
    """Returns the mean of the `count` values nearest to the median, for each row [columns] of a block [columns, n].

    In sorted order the nearest values are contiguous, so the farther end is dropped until `count` are left.
    """
    n, line = block.shape[1], np.arange(len(block))
    block.sort(axis=1)
    # float64: the middle pair of float32 values near 3e38 must not overflow when it is averaged.
    wide = block.astype(np.float64)
    median = wide[:, (n - 1) // 2 : n // 2 + 1].mean(axis=1)
    low = np.zeros(len(block), np.int64)
    for left in range(n, count, -1):
        low += median - wide[line, low] > wide[line, low + left - 1] - median
    position = np.arange(n)[None, :] - low[:, None]
    return np.asarray(np.where((position >= 0) & (position < count), wide, 0).sum(axis=1) / count)

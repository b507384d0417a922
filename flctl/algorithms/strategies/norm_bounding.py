"""Norm bounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Vector, Weighing, norms, weights
from flctl.types import ClientUpdate


class NormBounding(Weighing):
    """Weighted mean of updates scaled down to a norm of at most a bound (Sun et al. 2019, section 4: norm bounding).

    sum_k (n_k / n) u_k min(1, M / ||u_k||) with M = `bound`, or the median of the clients' norms, which follows the
    training and is a norm of an honest client's update, or smaller, as long as these are the majority. The server
    does the scaling; the transform `clip` is the same on clients that do as they are told.
    """

    name = "norm-bounding"

    class Config(Weighing.Config):
        bound: float | None = Field(None, gt=0, description="Largest L2 norm of an update; null: the median of norms.")
        weighted: bool = Field(
            True, description="Clients count by the examples that they say they have; off: all the same."
        )

    def weigh(self, rows: Sequence[ClientUpdate]) -> Vector:
        lengths = norms(rows)
        bound = self.config.bound if self.config.bound is not None else float(np.median(lengths))
        factors = np.divide(bound, lengths, out=np.ones(len(rows)), where=lengths > bound)
        return np.asarray(weights(rows, self.config.weighted) * factors)

"""Norm bounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Weighing, norms, weights
from flctl.types import ClientUpdate, FloatArray


class NormBounding(Weighing):
    """Weighted mean of updates scaled down to a norm of at most a bound (Sun et al. 2019, section 4: norm bounding).

    sum_k (n_k / n) u_k min(1, M / ||u_k||) with M = `bound`, or the median of the clients' norms. The median follows
    the training. As long as honest clients are the majority, it is at most the norm of an honest update. The server
    does the scaling; the transform `clip` gives the same result if all clients are honest.
    """

    name = "norm-bounding"

    class Config(Weighing.Config):
        bound: float | None = Field(
            None, gt=0, description="Largest L2 norm of an update; null: the median of the norms."
        )
        weighted: bool = Field(
            True, description="Weight clients by the number of examples that they report; off: equal weights."
        )

    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        lengths = norms(rows)
        bound = self.config.bound if self.config.bound is not None else float(np.median(lengths))
        factors = np.divide(bound, lengths, out=np.ones(len(rows)), where=lengths > bound)
        return np.asarray(weights(rows, weighted=self.config.weighted) * factors)

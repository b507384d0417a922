"""The geometric median."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Weighing, distances, products, weights
from flctl.types import ClientUpdate, FloatArray


class GeometricMedian(Weighing):
    """The point of least mean distance to the updates, weighted by n_k (RFA, Pillutla et al. 2022, Algorithm 2).

    The smoothed Weiszfeld algorithm: z = sum_k b_k u_k with b_k in proportion to w_k / max(nu, ||z - u_k||), repeated
    until the b_k converge. It starts from b_k in proportion to w_k over the client's median distance to the others.
    That is near the solution even if the paper's start, the mean, is 10^38 away. The smoothed objective is convex, so
    the start does not change the solution.
    """

    name = "geometric-median"

    class Config(Weighing.Config):
        nu: float = Field(1e-6, gt=0, description="Smoothing: lower bound of the distances.")
        iterations: int = Field(
            100, ge=1, description="Maximum number of iterations (the paper makes 3, from the mean)."
        )
        tolerance: float = Field(
            1e-6, ge=0, description="Stop once the clients' coefficients change by less than this, in L1 norm."
        )
        weighted: bool = Field(
            True, description="Weight clients by the number of examples that they report; off: equal weights."
        )

    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        options, gram = self.config, products(rows)
        claimed = weights(rows, weighted=options.weighted)
        shares = _shares(claimed, np.sqrt(np.median(distances(gram), axis=1)), options.nu)
        for _ in range(options.iterations):
            before, shares = shares, _shares(claimed, to_mixture(gram, shares), options.nu)
            if np.abs(shares - before).sum() <= options.tolerance:
                break
        return shares


def to_mixture(gram: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Returns the distances [n] of the updates to sum_j c_j u_j, from the updates' inner products [n, n]."""
    inner = gram @ coefficients
    # ||u_i - z||^2 = <u_i, u_i> - 2 <u_i, z> + <z, z>. Cancellation may leave a small negative number: clamped at 0
    # below.
    squared = np.diagonal(gram) - 2 * inner + coefficients @ inner
    return np.sqrt(np.maximum(squared, 0))


def _shares(claimed: FloatArray, far: FloatArray, nu: float) -> FloatArray:
    shares = claimed / np.maximum(far, nu)
    return np.asarray(shares / shares.sum())

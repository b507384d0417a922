"""The geometric median."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Vector, Weighing, distances, products, weights
from flctl.types import ClientUpdate


class GeometricMedian(Weighing):
    """The point of least mean distance to the updates, weighted by n_k (RFA, Pillutla et al. 2022, Algorithm 2).

    The smoothed Weiszfeld algorithm: z = sum_k b_k u_k with b_k in proportion to w_k / max(nu, ||z - u_k||), over and
    over until the b_k stand still. It starts from b_k in proportion to w_k over the client's median distance to the
    others, which is near the end already where the paper's start, the mean, may be 10^38 away; the smoothed objective
    is convex, so the end is the same.
    """

    name = "geometric-median"

    class Config(Weighing.Config):
        nu: float = Field(1e-6, gt=0, description="Smoothing: the least distance that is told apart from zero.")
        iterations: int = Field(100, ge=1, description="Steps at most (the paper takes 3 from the mean).")
        tolerance: float = Field(1e-6, ge=0, description="Stop once the clients' shares change by less than this.")
        weighted: bool = Field(
            True, description="Clients count by the examples that they say they have; off: all the same."
        )

    def weigh(self, rows: Sequence[ClientUpdate]) -> Vector:
        options, gram = self.config, products(rows)
        claimed = weights(rows, options.weighted)
        shares = _shares(claimed, np.sqrt(np.median(distances(gram), axis=1)), options.nu)
        for _ in range(options.iterations):
            before, shares = shares, _shares(claimed, to_mixture(gram, shares), options.nu)
            if np.abs(shares - before).sum() <= options.tolerance:
                break
        return shares


def to_mixture(gram: Vector, coefficients: Vector) -> Vector:
    """The distances [n] of the updates to sum_j c_j u_j, from the updates' inner products [n, n]."""
    inner = gram @ coefficients
    squared = np.diagonal(gram) - 2 * inner + coefficients @ inner
    return np.sqrt(np.maximum(squared, 0))


def _shares(claimed: Vector, far: Vector, nu: float) -> Vector:
    shares = claimed / np.maximum(far, nu)
    return np.asarray(shares / shares.sum())

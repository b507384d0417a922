"""Attacks on updates: malicious clients replace the update that they trained."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from flctl import seeds
from flctl.simulation.attacks.attack import Attack, Known, Matrix
from flctl.types import FloatArray

__all__ = ["Alie", "Gaussian", "Ipm", "MinMax", "SignFlip"]


class SignFlip(Attack):
    """-`factor` times the update (Li et al. 2019, section 5: sign-flipping attack)."""

    on_updates = True

    def crafted(self, known: Known) -> Matrix:
        return -self.config.factor * known.own.astype(np.float64)


class Gaussian(Attack):
    """Normal numbers of standard deviation `std`, another draw for each client (Blanchard et al. 2017, section 5)."""

    on_updates = True

    def crafted(self, known: Known) -> Matrix:
        streams = (seeds.rng(self.seed, "attack", "round", known.round, "client", client) for client in known.ids)
        return np.stack([self.config.std * stream.standard_normal(known.own.shape[1]) for stream in streams])


class Alie(Attack):
    """mean - z deviations: a little is enough (Baruch et al. 2019, Algorithm 3).

    Where `z` is not given it is that of section 3.1: of n clients with f malicious, s = floor(n / 2) + 1 - f honest
    ones are wanted to lie further out, so Phi(z) = (n - f - s) / (n - f). It is at least 0.
    """

    on_updates = True

    def crafted(self, known: Known) -> Matrix:
        return known.mean - self.deviations(known.count, len(known.own)) * known.deviation

    def deviations(self, count: int, malicious: int) -> float:
        """Returns z for a round, from the number of clients that answered."""
        if self.config.z is not None:
            return self.config.z
        honest = count - malicious
        share = (honest - (count // 2 + 1 - malicious)) / max(honest, 1)
        return NormalDist().inv_cdf(min(share, 1 - 1e-6)) if share > 0.5 else 0.0


class Ipm(Attack):
    """-`epsilon` times the mean, so that the inner product with it is negative (Xie et al. 2020, section 4.1)."""

    on_updates = True

    def crafted(self, known: Known) -> Matrix:
        return -self.config.epsilon * known.mean


class MinMax(Attack):
    """mean + gamma p, as far out as no farther from any update than two of these are from each other.

    Shejwalkar and Houmansadr 2021, section 4.3, Min-Max: p is minus the deviation (`std`), minus the sign of the mean
    (`sign`) or minus the mean divided by its norm (`unit`). The paper searches for gamma; it is the least, over i, of
    the positive roots of ||mean + gamma p - u_i|| = max_jk ||u_j - u_k||.
    """

    on_updates = True

    def crafted(self, known: Known) -> Matrix:
        away = self._away(known)
        return known.mean + _reach(known, away) * away

    def _away(self, known: Known) -> FloatArray:
        if self.config.direction == "std":
            return -known.deviation
        if self.config.direction == "sign":
            return -np.sign(known.mean)
        norm = float(np.linalg.norm(known.mean))
        return -known.mean / norm if norm else known.mean


def _reach(known: Known, away: FloatArray) -> float:
    """Returns gamma; 0 if there is no positive root."""
    inner, along = np.zeros((len(known.others),) * 2), np.zeros(len(known.others))
    for part, block in known.blocks():
        from_mean = known.mean[part] - block
        inner += from_mean @ from_mean.T
        along += from_mean @ away[part]
    squares, length = np.diagonal(inner), float(away @ away)
    farthest = float((squares[:, None] + squares[None, :] - 2 * inner).max())
    if length == 0 or farthest <= 0:
        return 0.0
    roots = (np.sqrt(np.maximum(along**2 - length * (squares - farthest), 0)) - along) / length
    return max(float(roots.min()), 0.0)

"""The privacy loss distribution of a Gaussian mechanism on cohorts of a fixed size, drawn without replacement."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["fixed_size_distribution"]


@lru_cache(maxsize=16)
def fixed_size_distribution(noise_multiplier: float, cohort: int, population: int, step: float) -> Any:
    """The distribution of one round's privacy loss if one client of the population is replaced, losses rounded up to
    multiples of `step`.

    Let g = cohort / population, Q = N(0, z^2), P = N(2, z^2) (a replaced update moves the sum by twice the clipping
    norm) and R = (1 - g) Q + g P. For alpha >= 1 the hockey-stick divergence of neighbours is at most H_alpha(R | Q)
    (Balle, Barthe and Gaboardi 2018, Theorems 2 and 10), and hence for alpha < 1 at most H_alpha(Q | R), by
    H_alpha(P | Q) = 1 - alpha + alpha H_(1 / alpha)(Q | P). Rounds may take either direction, depending on earlier
    ones: both halves make one profile, which dominates each round, so compositions of it dominate the composition
    (Zhu, Dong and Wang 2022, Proposition 8 and Theorem 10). Neither of the pairs (R, Q) and (Q, R) does so alone.
    The maximum of the two is taken everywhere, which is convex, as a profile must be.
    """
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld import privacy_loss_distribution as losses
    from dp_accounting.pld import privacy_loss_mechanism as mechanisms

    pairs = [
        mechanisms.GaussianPrivacyLoss(noise_multiplier / 2, sampling_prob=cohort / population, adjacency_type=kind)
        for kind in (mechanisms.AdjacencyType.REMOVE, mechanisms.AdjacencyType.ADD)
    ]
    bounds = [pair.connect_dots_bounds() for pair in pairs]
    low = math.floor(min(bound.epsilon_lower for bound in bounds) / step)
    high = math.ceil(max(bound.epsilon_upper for bound in bounds) / step)
    at = np.arange(low, high + 1) * step
    profile = np.maximum(*(np.asarray(pair.get_delta_for_epsilon(at)) for pair in pairs))
    return losses.PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(step, low, high, profile)
    )

"""An audit of the mechanism in one run: canaries go in by coins, and what is released must not tell the coins.

Steinke, Nasr and Jagielski (2023), "Privacy auditing with one (1) training run". Canary i is a client whose update is
as large as it can get, along an axis of its own; each is part of the population by a fair coin. From the noisy sums of
all rounds an attacker guesses coins, and from how many guesses are right follows a lower bound of epsilon. What claims
less than the bound is broken; what claims more is not thereby proven.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flctl import Aggregate, ClientContext, ClientUpdate, ServerContext

from flctl_dp.accounting import epsilon
from flctl_dp.releases import Release
from flctl_dp.transform import CentralDP

__all__ = ["Audit", "audit", "lower_bound", "p_value"]

_LOUD = 1e6
"""The norm of a canary's update before it is clipped, in clipping norms."""
_SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Which shares of the canaries are guessed; the surest first."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found: with probability `confidence`, epsilon is at least `lower`; `claim` is what is accounted."""

    lower: float
    claim: float
    delta: float
    confidence: float
    canaries: int
    rounds: int

    @property
    def broken(self) -> bool:
        """Whether the claim is refuted."""
        return self.lower > self.claim


def p_value(canaries: int, guesses: int, right: int, eps: float, delta: float) -> float:
    """The probability that an (eps, delta)-private mechanism lets so many of `guesses` be right, or more, at most.

    Steinke et al. (2023), Theorem 5.2 and Appendix D: a binomial tail at e^eps / (1 + e^eps), and for delta
    2 m delta max_i P[right > Binomial >= right - i] / i.
    """
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-eps))
    beta = float(binom.sf(right - 1, guesses, chance))
    below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, chance))
    alpha = float((below / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, beta + 2 * canaries * delta * alpha)


def lower_bound(canaries: int, guesses: int, right: int, delta: float, error: float) -> float:
    """The largest epsilon that is refuted with the probability of error `error`; 0 where none is."""
    low, high = 0.0, 1.0
    if p_value(canaries, guesses, right, low, delta) >= error:
        return 0.0
    while p_value(canaries, guesses, right, high, delta) < error and high < 64:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, right, middle, delta) < error else (low, middle)
    return low


def audit(
    transform: CentralDP,
    release: Release,
    rounds: int,
    *,
    canaries: int = 1000,
    error: float = 0.05,
    rng: np.random.Generator | None = None,
) -> Audit:
    """Audits a central mechanism with `canaries` over `rounds`, sampled as `release` says (poisson, or all).

    Several attacks are tried, and share the probability of error among them, so that the bound holds for all together.
    """
    rng = rng or np.random.default_rng()
    delta = transform.config.target_delta
    inside = rng.random(canaries) < 0.5
    sums = _released(transform, release, rounds, inside, rng)
    attacks = [sums.sum(axis=0)]
    if rounds > 1:  # noise that is used twice leaves no spread but that of who took part
        attacks += [_unevenness(sums)]
    each = error / (len(attacks) * len(_SHARES))
    found = [
        lower_bound(canaries, *_guessed(score, inside, share), delta, each) for score in attacks for share in _SHARES
    ]
    claim = epsilon({release: rounds}, delta, release.default_relation())
    return Audit(max(found), claim, delta, 1 - error, canaries, rounds)


def _guessed(score: Floats, inside: npt.NDArray[np.bool_], share: float) -> tuple[int, int]:
    """(guesses, right ones): the highest scores are taken for insiders, as many of the lowest for outsiders."""
    count = max(1, int(share * len(score) / 2))
    order = np.argsort(score, kind="stable")
    return 2 * count, int(inside[order[-count:]].sum() + (~inside[order[:count]]).sum())


def _unevenness(sums: Floats) -> Floats:
    """How much each canary's axis changes from round to round."""
    return np.asarray(sums.std(axis=0))


def _released(
    transform: CentralDP, release: Release, rounds: int, inside: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Floats:
    """The noisy sums of all rounds [rounds, canaries]."""
    size = len(inside)
    expected = release.rate * size if release.sampling == "poisson" else float(size)
    state = transform._begun(transform.init({"delta": size}), release.noise_multiplier, expected)
    sums = []
    for number in range(1, rounds + 1):
        asked = inside & (rng.random(size) < release.rate) if release.sampling == "poisson" else inside
        total = _total(transform, transform.broadcast(state), np.flatnonzero(asked), size, number)
        ctx = ServerContext(number, int(asked.sum()), rng)
        result, state = transform.on_server(
            Aggregate({"delta": total}, float(asked.sum()), int(asked.sum())), state, ctx
        )
        sums.append(np.asarray(result.arrays["delta"], np.float64))
    return np.stack(sums)


def _total(
    transform: CentralDP,
    broadcast: Mapping[str, Floats],
    asked: npt.NDArray[np.int64],
    size: int,
    number: int,
) -> Floats:
    total = np.zeros(size)
    loud = np.array([_LOUD * transform.config.clipping_norm], np.float32)
    for place in asked:
        ctx = ClientContext(number, str(place), broadcast, np.random.default_rng(0))
        sent = transform.on_client(ClientUpdate(str(place), {"delta": loud}, 10.0), ctx)
        total[place] += sent.weight * float(sent.arrays["delta"][0])
    return total

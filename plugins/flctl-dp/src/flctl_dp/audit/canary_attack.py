"""A one-run audit of the mechanism: canaries are included by fair coins, which its releases must not reveal.

Steinke, Nasr and Jagielski (2023), "Privacy auditing with one (1) training run". Canary i is a client whose update is
as large as possible, along an axis of its own; each is part of the population by a fair coin. An attacker guesses the
coins from the noisy sums of all rounds, and the number of right guesses gives a lower bound of epsilon. A smaller claim
is refuted; a larger one is not thereby proven. The transform's own client and server halves are called; training,
executors, the drawing of cohorts and the aggregator of a run are not part of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flctl import Aggregate, Arrays, ClientContext, ClientUpdate, ServerContext

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.noise.banded_factor import coefficients

__all__ = ["SHARES", "Audit", "audit", "guessed", "insiders", "lower_bound", "p_value"]

_LOUD = 1e6
"""The norm of a canary's update before it is clipped, in clipping norms."""
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Fractions of the canaries that are guessed, the surest first."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Audit:
    """The finding of an audit: with probability `confidence`, epsilon is at least `lower`; `claim` is accounted.
    `end_to_end`: whole training was audited, not the mechanism alone."""

    lower: float
    claim: float
    delta: float
    confidence: float
    canaries: int
    rounds: int
    end_to_end: bool = False

    @property
    def broken(self) -> bool:
        """True if the claim is refuted."""
        return self.lower > self.claim


def p_value(canaries: int, guesses: int, right: int, eps: float, delta: float) -> float:
    """Upper bound on the probability of `right` or more right guesses against an (eps, delta)-private mechanism.

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
    """Audits a central mechanism with `canaries` over `rounds`, sampled as `release` says (poisson, all or cyclic).

    Several attacks are tried, and share the probability of error among them, so that the bound holds for all together.
    """
    rng = rng or np.random.default_rng()
    delta = transform.config.target_delta
    inside = rng.random(canaries) < 0.5
    sums = _released(transform, release, rounds, inside, rng)
    attacks = [sums.sum(axis=0)]
    if release.sampling == "cyclic":  # what was correlated is taken apart again
        sums = _rows(sums, release)
        attacks += [_matched(sums, release)]
    if rounds > 1:  # reused noise cancels in differences of rounds, and leaves the spread of participation
        attacks += [_unevenness(sums)]
    each = error / (len(attacks) * len(SHARES))
    found = [
        lower_bound(canaries, *guessed(score, inside, share), delta, each) for score in attacks for share in SHARES
    ]
    claim = epsilon(release.over(rounds), delta, release.default_relation())
    return Audit(max(found), claim, delta, 1 - error, canaries, rounds)


def guessed(score: Floats, inside: npt.NDArray[np.bool_], share: float) -> tuple[int, int]:
    """(guesses, right ones): the highest scores are taken for insiders, as many of the lowest for outsiders."""
    count = max(1, int(share * len(score) / 2))
    order = np.argsort(score, kind="stable")
    return 2 * count, int(inside[order[-count:]].sum() + (~inside[order[:count]]).sum())


def insiders(score: Floats, inside: npt.NDArray[np.bool_], share: float) -> tuple[int, int]:
    """(guesses, right ones): the highest scores are taken for insiders, and nothing is said of the others."""
    count = max(1, int(share * len(score) / 2))
    return count, int(inside[np.argsort(score, kind="stable")[-count:]].sum())


def _turns(canaries: int, release: Release) -> npt.NDArray[np.int64]:
    """In which of the rounds of a turn each canary takes part, [canaries]."""
    return np.arange(canaries) % release.separation


def _rows(sums: Floats, release: Release) -> Floats:
    """C y [rounds, canaries], whose noise is fresh in every round."""
    column = coefficients(release.bands)
    return np.stack([column[: t + 1][::-1] @ sums[max(0, t + 1 - release.bands) : t + 1] for t in range(len(sums))])


def _matched(rows: Floats, release: Release) -> Floats:
    """Correlation of the rows with a canary that took part in each of its turns, [canaries]."""
    column = np.zeros(release.separation)
    column[: release.bands] = coefficients(release.bands)
    turns, rounds = _turns(rows.shape[1], release), np.arange(len(rows))[:, None]
    since = rounds - turns
    return np.asarray((rows * np.where(since >= 0, column[since % release.separation], 0.0)).sum(axis=0))


def _unevenness(sums: Floats) -> Floats:
    """Standard deviation of each canary's axis over rounds."""
    return np.asarray(sums.std(axis=0))


def _released(
    transform: CentralDP, release: Release, rounds: int, inside: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Floats:
    """The noisy sums of all rounds, over the clipping norm of each, [rounds, canaries]."""
    size = len(inside)
    share = {"poisson": release.rate, "cyclic": 1 / max(release.separation, 1)}.get(release.sampling, 1.0)
    bands = {"bands": np.array([release.bands])} if release.bands else {}
    state = transform._begun({**transform.init({"delta": size}), **bands}, release.noise_multiplier, share * size)
    sums = []
    for round_number in range(1, rounds + 1):
        asked, clip = inside & _drawn(size, release, round_number, rng), float(state["clip"][0])
        total = _total(transform, transform.broadcast(state), np.flatnonzero(asked), size, round_number)
        ctx = ServerContext(round_number, int(asked.sum()), rng)
        result, state = transform.on_server(Aggregate(total, float(asked.sum()), int(asked.sum())), state, ctx)
        sums.append(np.asarray(result.arrays["delta"], np.float64) / clip)
    return np.stack(sums)


def _drawn(size: int, release: Release, round_number: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mask of the canaries that round `round_number` samples, if they are included."""
    if release.sampling == "poisson":
        return np.asarray(rng.random(size) < release.rate)
    if release.sampling == "cyclic":
        return np.asarray(_turns(size, release) == (round_number - 1) % release.separation)
    return np.ones(size, bool)


def _total(
    transform: CentralDP, broadcast: Arrays, asked: npt.NDArray[np.int64], size: int, round_number: int
) -> dict[str, Floats]:
    """The sum of what the canaries that are asked send; each is loud on an axis of its own."""
    total = {name: np.zeros(length) for name, length in transform.sends({"delta": size}).items()}
    loud = np.array([_LOUD * transform.config.clipping_norm], np.float32)
    for client_index in asked:
        ctx = ClientContext(round_number, str(client_index), broadcast, np.random.default_rng(0))
        sent = transform.on_client(ClientUpdate(str(client_index), {"delta": loud}, 10.0), ctx)
        total["delta"][client_index] += sent.weight * float(sent.arrays["delta"][0])
        for name in sent.arrays.keys() - {"delta"}:
            total[name] += sent.weight * sent.arrays[name]
    return total

"""Epsilon of composed releases: exact for Gaussians alone, by privacy loss distributions or Renyi DP for the others."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from flctl import ConfigError, IncompatibleError

from flctl_dp.accounting.fixed_size import fixed_size_distribution
from flctl_dp.accounting.releases import Adversary, Relation, Release, Releases
from flctl_dp.accounting.summed_release import SummedRelease, divergence

__all__ = [
    "Accountant",
    "Guarantee",
    "coarse_epsilon",
    "epsilon",
    "gaussian_epsilon",
    "guarantee",
    "quick_epsilon",
    "supports",
]

Accountant = Literal["pld", "rdp"]
_FINEST = 0.3
"""Noise multipliers below this take privacy loss distributions too large to hold; Renyi DP serves there."""
_FINE, _COARSE = 1e-4, 1e-3
"""Steps in which privacy losses are counted, rounded up: a coarser one is quicker, and its epsilon no smaller."""
_Groups = tuple[tuple[Release, int], ...]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """(epsilon, delta)-DP of a client against `adversary`, for populations that differ by `relation`. `accountant`
    names the method that found epsilon: "gaussian" (exact), "pld" or "rdp"."""

    epsilon: float
    delta: float
    relation: Relation
    adversary: Adversary
    accountant: str


def epsilon(
    releases: Releases,
    delta: float,
    relation: Relation,
    adversary: Adversary = "release",
    accountant: Accountant = "pld",
) -> float:
    """The epsilon of all releases together; 0 for none. See `guarantee`."""
    return guarantee(releases, delta, relation, adversary, accountant).epsilon


def guarantee(
    releases: Releases,
    delta: float,
    relation: Relation,
    adversary: Adversary = "release",
    accountant: Accountant = "pld",
) -> Guarantee:
    """The guarantee of all releases together, each chosen in sight of those before it.

    release: the adversary sees every model that is released, and nothing else. observer: it also sees the cohorts, so
    that sampling amplifies nothing; a client that is left out then counts as zeros (`zero-out` for `add-remove`).
    Neither sees a sum before its noise: a server that adds the noise is no such adversary.
    Poisson sampling with truncated cohorts is beyond `rdp` (`pld` has it from arXiv 2508.15089). Raises ConfigError for
    a delta outside (0, 1), IncompatibleError for a relation that a sampling has no epsilon for, or that `rdp` cannot
    account.
    """
    groups = _checked(releases, delta, relation)
    seen: Relation = "zero-out" if adversary == "observer" and relation == "add-remove" else relation
    found, by = _epsilon(
        groups, delta, relation, seen=adversary == "observer", accountant=accountant, step=_step(groups, relation)
    )
    return Guarantee(found, delta, seen, adversary, by)


def quick_epsilon(releases: Releases, delta: float, relation: Relation) -> float:
    """A quick upper bound of `epsilon`, up to rounding: by Renyi DP if that is known, else by coarser distributions.
    Raises as `guarantee` does."""
    by: Accountant = "rdp" if supports(releases, relation, "rdp") else "pld"
    return _epsilon(_checked(releases, delta, relation), delta, relation, seen=False, accountant=by, step=_COARSE)[0]


def coarse_epsilon(releases: Releases, delta: float, relation: Relation) -> float:
    """As `epsilon`, by distributions in coarser steps: a tenth of the time, and a slightly larger value."""
    return _epsilon(_checked(releases, delta, relation), delta, relation, seen=False, accountant="pld", step=_COARSE)[0]


def _step(groups: _Groups, relation: Relation) -> float:
    """The step of privacy losses. Profiles of fixed-size cohorts are exact at every multiple of a step ("connect the
    dots"), so that a coarse one costs a part in 10^4 of epsilon and saves nine tenths of the time."""
    fixed = any(release.sampling == "fixed" and _amplified(release, relation) for release, _ in groups)
    return _COARSE if fixed else _FINE


def _checked(releases: Releases, delta: float, relation: Relation) -> _Groups:
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}, expected a number between 0 and 1", hint="Use less than 1 / clients.")
    for release in releases:
        release.check_relation(relation)
    return tuple(sorted(((r, n) for r, n in releases.items() if n), key=repr))


def supports(releases: Releases, relation: Relation, accountant: Accountant) -> bool:
    """True if the accountant knows how to compose these releases under this relation."""
    if accountant == "pld" and _summed(releases):
        return False
    sampled = {r.sampling for r in releases if _amplified(r, relation)}
    if accountant == "pld" and "fixed" in sampled and not _pair_fits(releases, relation):
        return False
    if accountant == "rdp":
        cut = any(release.max_cohort for release in releases)
        return not (cut or ("poisson" in sampled and relation == "replace-one"))
    return all(r.noise_multiplier >= _FINEST for r in releases if r.sampling == "poisson")


def _pair_fits(releases: Iterable[Release], relation: Relation) -> bool:
    """False if the distribution of a fixed-size cohort is too large to hold: replacing doubles the sensitivity."""
    fixed = (r for r in releases if r.sampling == "fixed" and _amplified(r, relation))
    return all(release.noise_multiplier >= 2 * _FINEST for release in fixed)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon at which a Gaussian mechanism of sensitivity over noise `mu` is (epsilon, delta)-DP.

    Balle and Wang (2018), Theorem 8: delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu); by bisection, rounded
    up. Compositions of Gaussians are Gaussian, mu^2 = sum of mu_i^2 (Dong, Roth and Su 2022, Corollary 3.3).
    """
    if mu == 0 or _delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, mu) > delta:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if _delta(middle, mu) <= delta else (middle, high)
    return high


def _delta(eps: float, mu: float) -> float:
    from scipy.special import log_ndtr

    first, second = float(log_ndtr(mu / 2 - eps / mu)), eps + float(log_ndtr(-mu / 2 - eps / mu))
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def _amplified(release: Release, relation: Relation) -> bool:
    """True if secret sampling amplifies the privacy of the release."""
    if release.sampling == "poisson":
        return release.rate < 1 or bool(release.max_cohort)
    return release.sampling == "fixed" and relation == "replace-one" and release.cohort < release.population


@lru_cache(maxsize=4096)
def _epsilon(
    groups: _Groups, delta: float, relation: Relation, accountant: Accountant, step: float, *, seen: bool
) -> tuple[float, str]:
    releases = dict(groups)
    if seen and _summed(releases):
        releases = _exposed(releases)
    if not _summed(releases) and (seen or not any(_amplified(release, relation) for release in releases)):
        return gaussian_epsilon(_mu(releases, relation), delta), "gaussian"
    if accountant == "pld" and not supports(releases, relation, "pld"):
        accountant = "rdp"
    if not supports(releases, relation, accountant):
        raise IncompatibleError(
            "Renyi DP is known for Poisson sampling under add-remove and zero-out only, and without a limit on cohorts",
            hint="Use the relation add-remove, or noise multipliers of 0.3 and more (0.6 for fixed cohorts) with the "
            "accountant pld.",
        )
    found = _composed(releases, delta, relation, accountant, step)
    if math.isinf(found) and supports(releases, relation, "rdp"):  # distributions are cut where little is left of them
        return _composed(releases, delta, relation, "rdp", step), "rdp"
    return found, accountant


def _summed(releases: Iterable[Release]) -> bool:
    """True if clients added shares of the noise of any of these: their sum is not Gaussian, and has a Renyi bound."""
    return any(isinstance(release, SummedRelease) for release in releases)


def _exposed(releases: Mapping[Release, int]) -> dict[Release, int]:
    """The releases without amplification, as an observer of the cohorts sees them."""
    found: Counter[Release] = Counter()
    for release, count in releases.items():
        kept = isinstance(release, SummedRelease) or release.sampling == "cyclic" or release.local
        found[release if kept else Release("unsampled", release.noise_multiplier)] += count
    return dict(found)


def _mu(releases: Mapping[Release, int], relation: Relation) -> float:
    """Sensitivity over noise of all together, without any sampling."""
    reach = 2 if relation == "replace-one" else 1
    return math.sqrt(sum(n * (reach / r.ratio) ** 2 for r, n in releases.items()))


def _composed(
    releases: Mapping[Release, int], delta: float, relation: Relation, accountant: Accountant, step: float
) -> float:
    from dp_accounting import rdp

    with _quietly():
        if accountant == "rdp":
            curves = [(_curve(release, relation), count) for release, count in releases.items()]
            orders, total = curves[0][0][0], sum(count * np.asarray(curve) for (_, curve), count in curves)
            return float(rdp.compute_epsilon(orders, total, delta)[0])
        sizes = (0, 1) if relation == "add-remove" and any(release.max_cohort for release in releases) else (0,)
        return max(_by_distribution(releases, delta, relation, joined, step) for joined in sizes)


def _by_distribution(
    releases: Mapping[Release, int], delta: float, relation: Relation, joined: int, step: float
) -> float:
    """Epsilon if the larger of the two populations has `joined` more clients: their number decides how often a cohort
    is truncated."""
    from dp_accounting.pld import privacy_loss_distribution as losses

    total = losses.identity(step)
    for release, count in releases.items():
        if _amplified(release, relation):
            total = total.compose(_distribution(release, relation, joined, step).self_compose(count))
        elif math.isfinite(release.ratio):  # many Gaussians are one
            alike = {"value_discretization_interval": step, "neighboring_relation": _neighbours(relation)}
            total = total.compose(losses.from_gaussian_mechanism(release.ratio / math.sqrt(count), **alike))
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=16)
def _distribution(release: Release, relation: Relation, joined: int, step: float) -> Any:
    """The privacy loss of one amplified release: slow to find, quick to compose."""
    from dp_accounting.pld import privacy_loss_distribution as losses

    noise = release.noise_multiplier
    if release.sampling == "fixed":
        return fixed_size_distribution(noise, release.cohort, release.population, step)
    alike = {"value_discretization_interval": step, "neighboring_relation": _neighbours(relation)}
    if not release.max_cohort:
        return losses.from_gaussian_mechanism(noise, sampling_prob=release.rate, **alike)
    drawn = release.population + joined, release.rate, release.max_cohort
    return losses.from_truncated_subsampled_gaussian_mechanism(*drawn, noise, **alike)


@lru_cache(maxsize=256)
def _curve(release: Release, relation: Relation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Orders, and the Renyi divergence of one release at each: slow to find, and adds up over releases."""
    from dp_accounting import rdp

    ledger = rdp.RdpAccountant(neighboring_relation=_neighbours(relation))
    if isinstance(release, SummedRelease):
        orders = tuple(ledger.orders.tolist())
        return orders, tuple(divergence(release, order, relation) for order in orders)
    ledger.compose(_event(release, relation), 1)
    return tuple(ledger.orders.tolist()), tuple(ledger.rdp.tolist())


def _neighbours(relation: Relation) -> Any:
    import dp_accounting

    return {
        "add-remove": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": dp_accounting.NeighboringRelation.REPLACE_ONE,
        "zero-out": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
    }[relation]


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppresses warnings about omitted orders: an epsilon over fewer orders is no smaller."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _event(release: Release, relation: Relation) -> Any:
    """The release as dp-accounting's RDP accountant takes it: with noise relative to the sensitivity, which replacing
    doubles. Its distributions double that by themselves."""
    import dp_accounting as events

    if math.isinf(release.ratio):
        return events.NoOpDpEvent()
    gaussian = events.GaussianDpEvent(release.ratio / (2 if relation == "replace-one" else 1))
    if release.sampling == "poisson":
        return events.PoissonSampledDpEvent(release.rate, gaussian)
    if release.sampling == "fixed" and _amplified(release, relation):
        return events.SampledWithoutReplacementDpEvent(release.population, release.cohort, gaussian)
    return gaussian

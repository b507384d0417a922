"""A sum of whole numbers to which clients added the noise themselves: its lattice, and its Renyi divergence."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from flctl import ConfigError, IncompatibleError, IntegrityError
from flctl.errors import counted

from flctl_dp.accounting.releases import Relation, Release, Sampling
from flctl_dp.noise.shares import MECHANISMS, Mechanism, variances
from flctl_dp.noise.stochastic_rounding import reach_of

__all__ = ["SummedRelease", "divergence", "inflation", "largest_cohort", "release_of"]

_OVERFLOW = 40
"""The sum of a round leaves its words with a chance below 2^-40."""
_LONGEST = 2.0**26
"""The longest update in cells, so that squares of whole numbers add up exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedRelease(Release):
    """One sum, modulo 2^`bits`, of updates and noise that at least `survivors` clients made, of whom up to `colluding`
    may tell their noise; at most `cohort` clients take part.

    `noise_multiplier` is the standard deviation of the noise of the others, `honest`, over the clipping norm. The
    lattice follows from these: each value of a client's noise has the variance `variance` in its cells, the largest one
    for which sums stay within their words; the clipping norm is sqrt(`variance` `honest`) / `noise_multiplier` cells;
    and `reach` is the largest squared norm that a client's rounded update of `dimension` values can have.
    Raises IncompatibleError where there is no such lattice.
    """

    sampling: Any = "unsampled"
    mechanism: Mechanism = "discrete-gaussian"
    survivors: int = 0
    colluding: int = 0
    dimension: int = 0
    bits: int = 0
    variance: int = field(init=False)
    reach: int = field(init=False)

    def __post_init__(self) -> None:
        Release.__post_init__(self)
        if self.mechanism not in MECHANISMS:
            raise ConfigError(f"the mechanism is {self.mechanism!r}, expected one of {', '.join(MECHANISMS)}")
        if not (0 <= self.colluding < self.survivors <= self.cohort and self.dimension > 0 and 2 <= self.bits <= 64):
            raise ConfigError(
                f"{self.survivors} of {counted(self.cohort, 'client')} survive, {self.colluding} of them reveal their "
                "noise to "
                f"the server, and sums are {self.dimension} words of {self.bits} bits",
                hint="At least one survivor must keep its noise secret.",
            )
        object.__setattr__(self, "variance", _largest_variance(*self._asked))
        object.__setattr__(self, "reach", reach_of(self.clip, self.dimension))

    @property
    def _asked(self) -> tuple[Mechanism, float, int, int, int, int]:
        return self.mechanism, self.noise_multiplier, self.honest, self.dimension, self.bits, self.cohort

    @property
    def noised_by_server(self) -> bool:
        return False

    @property
    def honest(self) -> int:
        """The clients whose noise counts."""
        return self.survivors - self.colluding

    @property
    def clip(self) -> float:
        """The clipping norm, in cells."""
        return math.sqrt(self.variance * self.honest) / self.noise_multiplier

    @property
    def ratio(self) -> float:
        """The noise over what a client moves the sum at most."""
        return math.sqrt(self.variance * self.honest / self.reach)

    def __str__(self) -> str:
        colluders = f", {self.colluding} of them colluding" if self.colluding else ""
        name = self.mechanism.replace("-", " ").replace("gaussian", "Gaussian").replace("skellam", "Skellam")
        return (
            f"distributed {name} in sums of {self.bits} bits, minimum survivors {self.survivors} of up to {self.cohort}"
            f"{colluders}, without a trusted server,"
        )


def largest_cohort(sampling: Sampling, population: int, cohort: float, rate: float, most: int = 0) -> int:
    """The largest number of clients in a round; for Poisson sampling without a limit `most`, up to a probability of
    2^-40."""
    if sampling in ("fixed", "all"):
        return math.ceil(cohort)
    if sampling != "poisson":
        return population
    from scipy.stats import binom

    drawn = int(binom.isf(2.0**-_OVERFLOW, population, rate))
    return min(drawn, most) if most else drawn


def release_of(found: Any, where: str) -> Release:
    """The release that the fields of a ledger's line describe, of either kind. Raises IntegrityError for none."""
    if not (isinstance(found, dict) and "mechanism" in found):
        return Release.of(found, where)
    kinds: dict[str, type] = {one.name: int for one in fields(SummedRelease)}
    kinds |= {"noise_multiplier": float, "rate": float, "sampling": str, "mechanism": str}
    needed = {"sampling", "noise_multiplier", "mechanism", "survivors", "cohort", "dimension", "bits", *_DERIVED}
    if not needed <= found.keys() or any(kinds.get(key) is not type(value) for key, value in found.items()):
        raise IntegrityError(f"{where} is not a release: {str(found)[:100]}")
    try:
        made = SummedRelease(**{key: value for key, value in found.items() if key not in _DERIVED})
    except (ConfigError, IncompatibleError) as error:
        raise IntegrityError(f"{where}: {error.message}") from error
    for name in _DERIVED:  # what was released counts, also where another version would choose another lattice
        if found[name] < 1:
            raise IntegrityError(f"{where} has the {name} {found[name]}, expected 1 or more")
        object.__setattr__(made, name, found[name])
    return made


_DERIVED = ("variance", "reach")


def divergence(release: SummedRelease, order: float, relation: Relation) -> float:
    """The Renyi divergence of `order` above 1, at most, of what two neighbouring rounds release.

    It is that of all values before they are taken modulo 2^bits, which tells no more. A client that is left out still
    adds its noise, as zeros would (zero-out); one that is replaced moves the sum twice as far.
    """
    squared = release.reach * (4 if relation == "replace-one" else 1)
    # |x|_1 is at most |x|_2 sqrt(D), and at most |x|_2^2 for whole numbers.
    absolute = min(math.sqrt(squared * release.dimension), float(squared))
    variance = float(release.honest * release.variance)
    if release.mechanism == "skellam":
        return _skellam(math.ceil(order), squared, absolute, variance)
    return _gaussians(order, squared, absolute, variance, release)


def _skellam(order: int, squared: float, absolute: float, variance: float) -> float:
    """Agarwal, Kairouz and Liu (2021), Theorem 3.5 and Corollary 3.6, for whole orders; divergences grow with orders.
    Sums of Skellam numbers are Skellam numbers, exactly."""
    first = order * squared / (2 * variance)
    fine = ((2 * order - 1) * squared + 6 * absolute) / (4 * variance**2)
    return first + min(fine, 3 * absolute / (2 * variance))


def _gaussians(order: float, squared: float, absolute: float, variance: float, release: SummedRelease) -> float:
    """Kairouz, Liu and Steinke (2021), Proposition 14: a sum of discrete Gaussians is nearly one, up to tau."""
    tau, dimension = inflation(release.variance, release.honest), release.dimension
    scale = math.sqrt(squared / variance)
    return min(
        order / 2 * scale**2 + tau * dimension,
        order / 2 * (scale**2 + 2 * absolute / math.sqrt(variance) * tau + tau**2 * dimension),
        order / 2 * (scale + tau * math.sqrt(dimension)) ** 2,
    )


@lru_cache(maxsize=256)
def inflation(variance: int, count: int) -> float:
    """tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)), for `count` discrete Gaussians of this variance."""
    unit = -2 * math.pi**2 * variance
    return 10 * sum(math.exp(unit * k / (k + 1)) for k in range(1, count))


@lru_cache(maxsize=1024)
def _largest_variance(mechanism: Mechanism, noise: float, honest: int, dimension: int, bits: int, cohort: int) -> int:
    """The finest lattice, by the variance of one client's noise in its cells."""

    def fits(variance: int) -> bool:
        clip = math.sqrt(variance * honest) / noise
        return clip <= _LONGEST and _overflow(variance, clip, dimension, bits, cohort) <= -_OVERFLOW * math.log(2)

    known = variances(mechanism)
    if not fits(known[0]):
        raise IncompatibleError(
            f"words of {bits} bits are too small for sums of {counted(cohort, 'client')} with a noise multiplier of "
            f"{noise:.3g} on {dimension} values",
            hint="Use more bits (the transform's and the aggregator's), smaller cohorts, or another noise multiplier.",
        )
    return known[bisect_left(known, True, lo=1, key=lambda variance: not fits(variance)) - 1]


def _overflow(variance: int, clip: float, dimension: int, bits: int, cohort: int) -> float:
    """The logarithm of a bound of the chance that any value of a round's sum leaves its word, by Chernoff.

    Of all that is added up, the cumulant generating function at t is below V (cosh(t) - 1): for the updates, turned by
    random signs, V = (n c)^2 / D (all in one direction); for rounding n / 4; for noise n sigma^2 (Skellam has that,
    and the discrete Gaussian less: Canonne, Kamath and Steinke 2020, Corollary 17).
    """
    half = 2.0 ** (bits - 1)
    spread = (cohort * clip) ** 2 / dimension + cohort / 4 + cohort * variance
    ratio = half / spread
    return math.log(2 * dimension) + half * (ratio / (1 + math.sqrt(1 + ratio**2)) - math.asinh(ratio))

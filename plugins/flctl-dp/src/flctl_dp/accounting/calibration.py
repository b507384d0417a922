"""The least noise that keeps to a target epsilon, and how many rounds a budget holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from flctl import PrivacyBudgetError
from flctl.errors import counted

from flctl_dp.accounting.accountants import Accountant, coarse_epsilon, epsilon, quick_epsilon
from flctl_dp.accounting.releases import Relation, Release, Releases

__all__ = ["HIGHEST", "LOWEST", "PlannedRounds", "PrivacyTarget", "affordable", "calibrate", "together"]

LOWEST, HIGHEST = 0.3, 100.0
"""Between these noise multipliers calibration looks."""
_TOLERANCE = 1e-3
_BY_DISTRIBUTION = "pld"
_CLOSE = (1 - 0.9 * _TOLERANCE, 0.99, 0.7)
"""Factors that are tried on a noise multiplier found by a quicker accountant, which is at or above the least one."""
_MANY = 1 << 16


@dataclass(frozen=True, slots=True)
class PrivacyTarget:
    """A bound on epsilon at a delta, for a neighbouring relation; `accountant` computes the epsilon."""

    epsilon: float
    delta: float
    relation: Relation
    accountant: Accountant = "pld"

    def cost(self, releases: Releases) -> float:
        """Epsilon of the releases."""
        return epsilon(releases, self.delta, self.relation, accountant=self.accountant)

    def is_met_by(self, releases: Releases) -> bool:
        """True if the releases stay within epsilon."""
        return self.cost(releases) <= self.epsilon


@dataclass(frozen=True, slots=True)
class PlannedRounds:
    """`count` rounds of a release, from a run's round `first` on, after the releases that are spent."""

    release: Release
    count: int
    first: int = 1
    spent: tuple[tuple[Release, int], ...] = ()

    @classmethod
    def after(cls, spent: Releases, release: Release, count: int, first: int = 1) -> PlannedRounds:
        """Rounds after `spent`; equal for equal releases in any order."""
        return cls(release, count, first, tuple(sorted(spent.items(), key=repr)))

    def releases(self, *, count: int | None = None, noise: float | None = None) -> Releases:
        """All releases, spent and planned; with another number of rounds, or another noise multiplier, if given."""
        release = self.release if noise is None else replace(self.release, noise_multiplier=noise)
        return together(dict(self.spent), release, self.count if count is None else count, self.first)


def together(spent: Releases, release: Release, count: int, first: int = 1) -> Releases:
    """The releases `spent` and `count` more rounds of `release`, from a run's round `first` on."""
    return {**spent, **{r: spent.get(r, 0) + n for r, n in release.over(count, first).items()}}


def calibrate(planned: PlannedRounds, target: PrivacyTarget) -> float:
    """A noise multiplier with which the planned rounds, after what is spent, meet the target: at most a part in a
    thousand above the least such one, and never below it. Raises PrivacyBudgetError if 100 is not enough."""

    def cost(noise: float) -> float:
        return target.cost(planned.releases(noise=noise))

    def quickly(noise: float) -> float:
        return quick_epsilon(planned.releases(noise=noise), target.delta, target.relation)

    def coarsely(noise: float) -> float:
        return coarse_epsilon(planned.releases(noise=noise), target.delta, target.relation)

    bound = target.epsilon
    if cost(HIGHEST) > bound:
        rounds = counted(planned.count, "round")
        left = "nothing of it is left" if planned.spent else f"it is too small for {rounds}"
        raise PrivacyBudgetError(
            f"no noise multiplier up to {HIGHEST:g} keeps {rounds} within epsilon {bound:g}: {left}",
            hint="Plan fewer rounds, a smaller cohort or a larger epsilon; compare them with `flctl dp plan`.",
        )
    low, high = LOWEST, HIGHEST
    if target.accountant == _BY_DISTRIBUTION:
        low, high = _closer(quickly, coarsely, bound, low, high)
        low, high = _closer(coarsely, cost, bound, low, high)
        low, high = low if cost(low) > bound else LOWEST, high if cost(high) <= bound else HIGHEST
    return low if cost(low) <= bound else _narrow(cost, bound, low, high)[1]


def affordable(planned: PlannedRounds, target: PrivacyTarget) -> int:
    """The number of the planned rounds that stay within the target. Large numbers are searched for from below."""

    def fits(count: int) -> bool:
        return target.is_met_by(planned.releases(count=count))

    wanted = planned.count
    if wanted <= _MANY and fits(wanted):
        return wanted
    low, high = 0, min(1, wanted)  # 0 more rounds need no check: the result is the same
    while high < wanted and fits(high):
        low, high = high, min(2 * high, wanted)
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


Cost = Callable[[float], float]
"""Noise multiplier -> epsilon."""


def _closer(quick: Cost, cost: Cost, target: float, low: float, high: float) -> tuple[float, float]:
    """Bounds of the noise that meets the target by `cost`, close to where a quicker accountant, which says a little
    more, finds it. Those returned as they were given are not checked."""
    if quick(high) > target or quick(low) <= target:
        return low, high
    _, guess = _narrow(quick, target, low, high)
    if cost(guess) > target:
        return guess, high
    below = (share * guess for share in _CLOSE)
    return next((noise for noise in below if noise > low and cost(noise) > target), low), guess


def _narrow(cost: Cost, target: float, low: float, high: float) -> tuple[float, float]:
    """Bounds a part in a thousand apart, the upper of which fits; `low` does not, and `high` does.

    By false position on logarithms, a little above what it says and a little below in turn, so that both bounds come
    close; every third time by halves, whatever the costs look like.
    """
    over, under, turn = cost(low), cost(high), 0
    while high > low * (1 + _TOLERANCE):
        share = 0.5
        if turn % 3 < 2 and 0 < under <= target < over < math.inf and under < over:
            share = math.log(over / target) / math.log(over / under)
        aside = (1 + _TOLERANCE / 3) ** (1 if turn % 2 == 0 else -1)
        least, most = low * (1 + _TOLERANCE / 4), high / (1 + _TOLERANCE / 4)
        noise = min(max(low * (high / low) ** share * aside, least), most)
        found = cost(noise)
        low, over, high, under = (low, over, noise, found) if found <= target else (noise, found, high, under)
        turn += 1
    return low, high

"""The least noise that keeps to a target epsilon, and how many rounds a budget holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from flctl import PrivacyBudgetError
from flctl.errors import counted

from flctl_dp.accounting.accountants import Accountant, coarse_epsilon, epsilon, quick_epsilon
from flctl_dp.accounting.releases import Relation, Release, Releases

__all__ = ["HIGHEST", "LOWEST", "affordable", "calibrate", "together"]

LOWEST, HIGHEST = 0.3, 100.0
"""Between these noise multipliers calibration looks."""
_TOLERANCE = 1e-3
_BY_DISTRIBUTION = "pld"
_CLOSE = (1 - 0.9 * _TOLERANCE, 0.99, 0.7)
"""Factors that are tried on a noise multiplier found by a quicker accountant, which is at or above the least one."""
_MANY = 1 << 16


def together(spent: Releases, release: Release, count: int, first: int = 1) -> Releases:
    """The releases `spent` and `count` more rounds of `release`, from a run's round `first` on."""
    return {**spent, **{r: spent.get(r, 0) + n for r, n in release.over(count, first).items()}}


def calibrate(
    release: Release,
    rounds: int,
    target: float,
    delta: float,
    relation: Relation,
    *,
    spent: Releases | None = None,
    first: int = 1,
    accountant: Accountant = "pld",
) -> float:
    """A noise multiplier with which `rounds` of `release` from a run's round `first` on, after what is `spent`, stay
    within the epsilon `target`: at most a part in a thousand above the least such one, and never below it. Raises
    PrivacyBudgetError where 100 is not enough."""

    def planned(noise: float) -> Releases:
        return together(spent or {}, replace(release, noise_multiplier=noise), rounds, first)

    def cost(noise: float) -> float:
        return epsilon(planned(noise), delta, relation, accountant=accountant)

    def quickly(noise: float) -> float:
        return quick_epsilon(planned(noise), delta, relation)

    def coarsely(noise: float) -> float:
        return coarse_epsilon(planned(noise), delta, relation)

    if cost(HIGHEST) > target:
        left = "nothing of it is left" if spent else f"it is too small for {counted(rounds, 'round')}"
        raise PrivacyBudgetError(
            f"no noise multiplier up to {HIGHEST:g} keeps {counted(rounds, 'round')} within epsilon {target:g}: {left}",
            hint="Plan fewer rounds, a smaller cohort or a larger epsilon; compare them with `flctl dp plan`.",
        )
    low, high = LOWEST, HIGHEST
    if accountant == _BY_DISTRIBUTION:
        low, high = _closer(quickly, coarsely, target, low, high)
        low, high = _closer(coarsely, cost, target, low, high)
        low, high = low if cost(low) > target else LOWEST, high if cost(high) <= target else HIGHEST
    return low if cost(low) <= target else _narrow(cost, target, low, high)[1]


def affordable(
    spent: Releases,
    release: Release,
    wanted: int,
    target: float,
    delta: float,
    relation: Relation,
    *,
    first: int = 1,
) -> int:
    """The number of the `wanted` further rounds, from round `first` of a run on, that stay within `target`. Large
    numbers are searched for from below."""

    def fits(count: int) -> bool:
        return epsilon(together(spent, release, count, first), delta, relation) <= target

    if wanted <= _MANY and fits(wanted):
        return wanted
    low, high = 0, min(1, wanted)  # whether 0 more fit changes nothing
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

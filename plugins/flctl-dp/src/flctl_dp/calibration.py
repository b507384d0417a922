"""The least noise that keeps to a target epsilon, and how many rounds a budget holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flctl import PrivacyBudgetError

from flctl_dp.accounting import Accountant, epsilon, quick_epsilon
from flctl_dp.releases import Relation, Release, Releases

__all__ = ["HIGHEST", "LOWEST", "affordable", "calibrate", "together"]

LOWEST, HIGHEST = 0.3, 100.0
"""Between these noise multipliers calibration looks."""
_TOLERANCE = 1e-3
_BY_DISTRIBUTION = "pld"
_CLOSE = (0.99, 0.7)
"""What is tried of a noise multiplier that was found quickly: it is a little above the least one, or somewhat."""
_MANY = 1 << 16


def together(spent: Releases, release: Release, count: int, first: int = 1) -> Releases:
    """What is spent, with so many rounds of `release` more, from a run's round `first` on."""
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

    def fits(noise: float) -> bool:
        return epsilon(planned(noise), delta, relation, accountant=accountant) <= target

    def fits_quickly(noise: float) -> bool:
        return quick_epsilon(planned(noise), delta, relation) <= target

    if not fits(HIGHEST):
        left = "nothing is left of it" if spent else "it is too small for so many rounds"
        raise PrivacyBudgetError(
            f"no noise multiplier up to {HIGHEST:g} keeps {rounds} rounds within epsilon {target:g}: {left}",
            hint="Plan fewer rounds, a smaller cohort or a larger epsilon: `flctl dp plan` shows what each costs.",
        )
    low, high = LOWEST, HIGHEST
    if accountant == _BY_DISTRIBUTION and fits_quickly(high):
        _, guess = _narrow(fits_quickly, low, high)
        high = guess if fits(guess) else high
        low = next((share * high for share in _CLOSE if share * high > low and not fits(share * high)), low)
    return low if fits(low) else _narrow(fits, low, high)[1]


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
    """How many of `wanted` further rounds, from a run's round `first` on, stay within the epsilon `target`. Many are
    not asked about at once."""

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


def _narrow(fits: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Bounds a part in a thousand apart, the upper of which fits."""
    while high > low * (1 + _TOLERANCE):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low, high

"""How many neighbours a client needs, and how many of them to open a share: k and t (Bell et al. 2020, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Literal

from flctl import IncompatibleError

__all__ = ["COMPLETE_BELOW", "Degrees", "Mode", "choose", "complete", "least_threshold", "lowest_threshold"]

Mode = Literal["hbc", "active"]
COMPLETE_BELOW = 50
"""Cohorts up to here use the complete graph: a sparse one would save little."""
SIGMA, ETA = 40, 20
"""Failures are as rare as 2^-40 for secrecy and 2^-20 for coming to an end."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """`neighbours` (k) of each client, and `threshold` (t): how many of them open a share."""

    neighbours: int
    threshold: int


def lowest_threshold(mode: Mode, neighbours: int) -> int:
    """The least t: in active mode such that no two sets of t neighbours, told different lists of survivors, overlap in
    fewer than a third of all; in hbc mode, where there is one list, half of them."""
    return 2 * neighbours // 3 + 1 if mode == "active" else max(neighbours // 2, 2)


def complete(count: int, mode: Mode, corrupt: float = 0.0) -> Degrees:
    """Everybody is everybody's neighbour; t is more than corrupt clients can reach, in active mode with the help of two
    lists of survivors (2 t - k > C)."""
    degree, adversaries = count - 1, int(corrupt * count)
    reached = (degree + adversaries) // 2 if mode == "active" else max(adversaries, degree // 2)
    return Degrees(degree, max(lowest_threshold(mode, degree), reached + 1))


def least_threshold(count: int, neighbours: int, mode: Mode, corrupt: float, chosen: Degrees) -> int:
    """The least t that is as safe as the `chosen` one, for a cohort of `count` and so many neighbours."""
    if neighbours == count - 1:
        return complete(count, mode, corrupt).threshold
    return max(lowest_threshold(mode, neighbours), chosen.threshold)


@lru_cache(maxsize=256)
def choose(count: int, mode: Mode, corrupt: float, dropped: float) -> Degrees:
    """The smallest even k, and for it the smallest t, for a cohort of `count` of which shares `corrupt` (gamma)
    collude with the server and `dropped` (delta) vanish; below 50 clients, the complete graph.

    Raises IncompatibleError where no t is both safe and reachable.
    """
    if count < COMPLETE_BELOW:
        return complete(count, mode, corrupt)
    adversaries, absent = int(corrupt * count), int(dropped * count)
    for neighbours in range(2, count - 1, 2):
        if _disconnected(count, neighbours, adversaries + absent) >= Fraction(1, 2 ** (SIGMA + 1)):
            continue
        threshold = _threshold(count, neighbours, mode, adversaries)
        late = 1 if threshold is None else _at_least(count - 1, absent, neighbours, neighbours - threshold + 1)
        if threshold is not None and late <= Fraction(1, 2**ETA * count):
            return Degrees(neighbours, threshold)
    whole = complete(count, mode, corrupt)
    if whole.threshold <= whole.neighbours - absent:
        return whole
    raise IncompatibleError(
        f"no graph of {count} clients is safe with {adversaries} corrupt and {absent} dropped clients",
        hint="Expect fewer corrupt or dropped clients (aggregator.corrupt, aggregator.dropped).",
    )


def _disconnected(count: int, neighbours: int, gone: int) -> Fraction:
    """A bound of the probability that the honest survivors fall apart into two groups."""
    bound = Fraction(count * (count - neighbours - 1), 2)
    for place in range(neighbours):
        bound *= Fraction(max(gone - place, 0), count - place)
    return bound


def _threshold(count: int, neighbours: int, mode: Mode, adversaries: int) -> int | None:
    """The smallest t that corrupt neighbours reach with a probability of at most 2^-(sigma + 1) / n."""
    start = lowest_threshold(mode, neighbours)
    for threshold in range(start, neighbours + 1):
        needed = 2 * threshold - neighbours if mode == "active" else threshold
        if _at_least(count - 1, adversaries, neighbours, needed) <= Fraction(1, 2 ** (SIGMA + 1) * count):
            return threshold
    return None


def _at_least(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Pr[X >= least] for X hypergeometric."""
    highest = min(drawn, marked)
    ways = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in range(max(least, 0), highest + 1))
    return Fraction(ways, comb(population, drawn))

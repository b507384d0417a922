"""How many neighbours a client needs, and how many of them to open a share: k and t (Bell et al. 2020, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Literal

from flctl import IncompatibleError

__all__ = [
    "COMPLETE_BELOW",
    "COMPLETE_UP_TO",
    "Degrees",
    "Mode",
    "choose",
    "complete",
    "least_threshold",
    "lowest_threshold",
]

Mode = Literal["hbc", "active"]
COMPLETE_BELOW = 50
"""Cohorts up to here use the complete graph: a sparse one would save little."""
COMPLETE_UP_TO = 256
"""In active mode, cohorts up to here use the complete graph."""
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


@lru_cache(maxsize=256)
def least_threshold(count: int, neighbours: int, mode: Mode, corrupt: float) -> int:
    """The least t that is safe for a cohort of `count` and so many neighbours; more than there are, where none is."""
    if neighbours == count - 1:
        return complete(count, mode, corrupt).threshold
    found = _threshold(count, neighbours, mode, int(corrupt * count))
    return neighbours + 1 if found is None else found


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
        if threshold is not None and _comes_to_an_end(count, neighbours, threshold, absent):
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
    """The smallest t that corrupt neighbours reach with a probability of at most 2^-(sigma + 1) / n; in active mode
    never: who lies also picks the cohort, and so can put all corrupt clients next to one."""
    start = lowest_threshold(mode, neighbours)
    if mode == "active":
        safe = max(start, (neighbours + adversaries) // 2 + 1)
        return safe if safe <= neighbours else None
    for threshold in range(start, neighbours + 1):
        if _at_least(count - 1, adversaries, neighbours, threshold) <= Fraction(1, 2 ** (SIGMA + 1) * count):
            return threshold
    return None


def _comes_to_an_end(count: int, neighbours: int, threshold: int, absent: int) -> bool:
    """Whether t neighbours are left but for a probability of 2^-eta / n; first by one term, which is soon known."""
    least, limit = neighbours - threshold + 1, Fraction(1, 2**ETA * count)
    one = comb(absent, least) * comb(count - 1 - absent, neighbours - least)
    return Fraction(one, comb(count - 1, neighbours)) <= limit and (
        _at_least(count - 1, absent, neighbours, least) <= limit
    )


def _at_least(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Pr[X >= least] for X hypergeometric."""
    highest = min(drawn, marked)
    ways = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in range(max(least, 0), highest + 1))
    return Fraction(ways, comb(population, drawn))

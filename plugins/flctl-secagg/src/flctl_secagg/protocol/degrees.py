"""Choice of the degree k of the masking graph and the threshold t of secret sharing (Bell et al. 2020, section 3.4)."""

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
"""Cohorts below this size use the complete graph: a sparse one would save little."""
COMPLETE_UP_TO = 256
"""In active mode, cohorts up to this size use the complete graph."""
SIGMA, ETA = 40, 20
"""Failure probabilities of a session: 2^-sigma for secrecy, 2^-eta for completion."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degree of the masking graph (`neighbours`, k), and shares needed to reconstruct a secret (`threshold`, t)."""

    neighbours: int
    threshold: int


def lowest_threshold(mode: Mode, neighbours: int) -> int:
    """Returns the least t for k neighbours. In active mode a server may send two lists of survivors: t > 2 k / 3 makes
    any two sets of t neighbours overlap in more than k / 3. In hbc mode there is one list: k // 2, and at least 2."""
    return 2 * neighbours // 3 + 1 if mode == "active" else max(neighbours // 2, 2)


def complete(count: int, mode: Mode, corrupt: float = 0.0) -> Degrees:
    """Returns k and t of the complete graph. t exceeds the shares that C corrupt clients can collect; in active mode,
    with two lists of survivors, this means 2 t - k > C."""
    degree, adversaries = count - 1, int(corrupt * count)
    reached = (degree + adversaries) // 2 if mode == "active" else max(adversaries, degree // 2)
    return Degrees(degree, max(lowest_threshold(mode, degree), reached + 1))


@lru_cache(maxsize=256)
def least_threshold(count: int, neighbours: int, mode: Mode, corrupt: float) -> int:
    """Returns the least safe t for a cohort of `count` with `neighbours` each; `neighbours` + 1 if no t is safe."""
    if neighbours == count - 1:
        return complete(count, mode, corrupt).threshold
    found = _threshold(count, neighbours, mode, int(corrupt * count))
    return neighbours + 1 if found is None else found


@lru_cache(maxsize=256)
def choose(count: int, mode: Mode, corrupt: float, dropped: float) -> Degrees:
    """Returns the smallest even k, and the smallest t for it, for a cohort of `count`.

    Fractions `corrupt` (gamma) collude with the server, and `dropped` (delta) drop out. Below 50 clients, or if no
    sparse graph is safe, the graph is complete. Raises IncompatibleError if no t is both safe and reachable.
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
    """Upper bound on the probability that the graph of honest survivors is disconnected."""
    bound = Fraction(count * (count - neighbours - 1), 2)
    for place in range(neighbours):
        bound *= Fraction(max(gone - place, 0), count - place)
    return bound


def _threshold(count: int, neighbours: int, mode: Mode, adversaries: int) -> int | None:
    """Returns the smallest t that corrupt neighbours reach with probability at most 2^-(sigma + 1) / n; None if no t
    does. In active mode they must never reach it: a malicious server picks the cohort, and can surround a client."""
    start = lowest_threshold(mode, neighbours)
    if mode == "active":
        safe = max(start, (neighbours + adversaries) // 2 + 1)
        return safe if safe <= neighbours else None
    for threshold in range(start, neighbours + 1):
        if _at_least(count - 1, adversaries, neighbours, threshold) <= Fraction(1, 2 ** (SIGMA + 1) * count):
            return threshold
    return None


def _comes_to_an_end(count: int, neighbours: int, threshold: int, absent: int) -> bool:
    """True if fewer than t neighbours remain with probability <= 2^-eta / n. Tests one term first: it is cheap."""
    least, limit = neighbours - threshold + 1, Fraction(1, 2**ETA * count)
    one = comb(absent, least) * comb(count - 1 - absent, neighbours - least)
    return Fraction(one, comb(count - 1, neighbours)) <= limit and (
        _at_least(count - 1, absent, neighbours, least) <= limit
    )


def _at_least(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Pr[X >= `least`] for a hypergeometric X."""
    highest = min(drawn, marked)
    ways = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in range(max(least, 0), highest + 1))
    return Fraction(ways, comb(population, drawn))

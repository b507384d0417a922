"""Choice of the degree k of the masking graph and the threshold t of secret sharing (Bell et al. 2020, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, lgamma, log, log2
from typing import Literal

from flctl import IncompatibleError
from flctl.errors import counted

__all__ = [
    "COMPLETE_BELOW",
    "COMPLETE_UP_TO",
    "Degrees",
    "Mode",
    "choose",
    "complete",
    "least_threshold",
    "lowest_threshold",
    "portion",
    "require_survivable",
]

Mode = Literal["hbc", "active"]
COMPLETE_BELOW = 50
"""Cohorts below this size use the complete graph: a sparse one would save little."""
COMPLETE_UP_TO = 256
"""In active mode, cohorts up to this size use the complete graph."""
_MARGIN = 1e-3
SIGMA, ETA = 40, 20
"""Failure probabilities of a session: 2^-sigma for secrecy, 2^-eta for completion."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degree of the masking graph (`neighbours`, k), and shares needed to reconstruct a secret (`threshold`, t)."""

    neighbours: int
    threshold: int


def portion(fraction: float, count: int) -> int:
    """Returns floor(fraction * count) for the decimal that `fraction` prints as: 29 for 0.29 of 100, where the product
    of floats is below 29."""
    return Fraction(repr(fraction)) * count // 1


def lowest_threshold(mode: Mode, neighbours: int) -> int:
    """Returns the least t for k neighbours. In active mode a server may send two lists of survivors: t > 2 k / 3 makes
    any two sets of t neighbours overlap in more than k / 3. In hbc mode there is one list: k // 2, and at least 2."""
    return 2 * neighbours // 3 + 1 if mode == "active" else max(neighbours // 2, 2)


def complete(count: int, mode: Mode, corrupt: float = 0.0) -> Degrees:
    """Returns k and t of the complete graph. t exceeds the shares that C corrupt clients can collect; in active mode,
    with two lists of survivors, this means 2 t - k > C."""
    degree, adversaries = count - 1, portion(corrupt, count)
    reached = (degree + adversaries) // 2 if mode == "active" else max(adversaries, degree // 2)
    return Degrees(degree, max(lowest_threshold(mode, degree), reached + 1))


@lru_cache(maxsize=256)
def least_threshold(count: int, neighbours: int, mode: Mode, corrupt: float) -> int:
    """Returns the least safe t for a cohort of `count` with `neighbours` each; `neighbours` + 1 if no t is safe."""
    if neighbours == count - 1:
        return complete(count, mode, corrupt).threshold
    found = _threshold(count, neighbours, mode, portion(corrupt, count))
    return neighbours + 1 if found is None else found


@lru_cache(maxsize=256)
def choose(count: int, mode: Mode, corrupt: float, dropped: float) -> Degrees:
    """Returns the smallest even k, and the smallest t for it, for a cohort of `count`.

    Fractions `corrupt` (gamma) collude with the server, and `dropped` (delta) drop out. Below 50 clients, or if no
    sparse graph is safe, the graph is complete. Raises IncompatibleError if no t is both safe and reachable.
    """
    if count < COMPLETE_BELOW:
        return complete(count, mode, corrupt)
    adversaries, absent = portion(corrupt, count), portion(dropped, count)
    for neighbours in range(_least_connected(count, adversaries + absent), count - 1, 2):
        threshold = _threshold(count, neighbours, mode, adversaries)
        if threshold is not None and _comes_to_an_end(count, neighbours, threshold, absent):
            return Degrees(neighbours, threshold)
    whole = complete(count, mode, corrupt)
    if whole.threshold <= whole.neighbours - absent:
        return whole
    raise IncompatibleError(
        f"no graph of {counted(count, 'client')} is safe with {adversaries} corrupt and {absent} dropped clients",
        hint="Lower aggregator.corrupt or aggregator.dropped.",
    )


def require_survivable(count: int, degrees: Degrees, dropped: float) -> None:
    """Raises IncompatibleError if the expected dropouts of a complete graph leave fewer than t clients to open shares.
    `choose` takes them into account in sparse graphs only."""
    absent = portion(dropped, count)
    spare = degrees.neighbours - degrees.threshold
    if degrees.neighbours == count - 1 and absent > spare:
        raise IncompatibleError(
            f"aggregator.dropped expects {absent} of {counted(count, 'client')} to drop out, and a session bears "
            f"{spare}: "
            f"{degrees.threshold} of {counted(degrees.neighbours, 'neighbour')} have to open shares",
            hint="Expect fewer dropouts or fewer corrupt clients (aggregator.dropped, aggregator.corrupt).",
        )


def _least_connected(count: int, gone: int) -> int:
    """Returns the smallest even k for which the honest survivors are disconnected with probability < 2^-(sigma + 1).

    The probability is at most n (n - k - 1) / 2 * prod_{i<k} (gone - i) / (n - i), which falls as k grows.
    """
    above, below = count << SIGMA, 1
    for neighbours in range(count):
        if neighbours % 2 == 0 and neighbours and above * (count - neighbours - 1) < below:
            return neighbours
        above, below = above * max(gone - neighbours, 0), below * (count - neighbours)
    return count


def _threshold(count: int, neighbours: int, mode: Mode, adversaries: int) -> int | None:
    """Returns the smallest t that corrupt neighbours reach with probability at most 2^-(sigma + 1) / n; None if no t
    does. In active mode they must never reach it: a malicious server picks the cohort, and can surround a client."""
    start = lowest_threshold(mode, neighbours)
    if mode == "active":
        safe = max(start, (neighbours + adversaries) // 2 + 1)
        return safe if safe <= neighbours else None
    for threshold in range(start, neighbours + 1):
        if _is_rare(count - 1, adversaries, neighbours, threshold, Fraction(1, 2 ** (SIGMA + 1) * count)):
            return threshold
    return None


def _comes_to_an_end(count: int, neighbours: int, threshold: int, absent: int) -> bool:
    """True if fewer than t neighbours remain with probability <= 2^-eta / n."""
    return _is_rare(count - 1, absent, neighbours, neighbours - threshold + 1, Fraction(1, 2**ETA * count))


def _is_rare(population: int, marked: int, drawn: int, least: int, limit: Fraction) -> bool:
    """True if Pr[X >= `least`] <= `limit` for a hypergeometric X. Floating point decides unless the probability is
    within `_MARGIN` of the limit, a million times its error; exact integers of 10,000 bits take seconds."""
    if least > min(drawn, marked):
        return True
    if least <= max(drawn - population + marked, 0):
        return limit >= 1
    excess = _log2_at_least(population, marked, drawn, least) - log2(limit)
    return excess < 0 if abs(excess) > _MARGIN else _at_least(population, marked, drawn, least) <= limit


def _log2_at_least(population: int, marked: int, drawn: int, least: int) -> float:
    """log2 Pr[X >= `least`] for a hypergeometric X, in floating point."""
    others, ratio, total = population - marked, 1.0, 1.0
    for x in range(least, min(drawn, marked)):
        ratio *= (marked - x) * (drawn - x) / ((x + 1) * (others - drawn + x + 1))
        total += ratio
    first = _log2_comb(marked, least) + _log2_comb(others, drawn - least) - _log2_comb(population, drawn)
    return first + log2(total)


def _log2_comb(n: int, k: int) -> float:
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)


def _at_least(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Pr[X >= `least`] for a hypergeometric X."""
    highest = min(drawn, marked)
    ways = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in range(max(least, 0), highest + 1))
    return Fraction(ways, comb(population, drawn))

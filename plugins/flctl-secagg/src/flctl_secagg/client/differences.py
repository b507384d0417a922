"""Differencing test: detects sums over several lists of clients that combine to the update of one or two clients.

Sums are linear in the updates. If a linear combination of the lists leaves a single client, the sums give its update;
if it leaves two, they give a combination of two updates. Each list is a row of zeros and ones. The test looks for a
vector with one or two nonzero entries in the row space. All rounds are treated as rounds on the same model, since a
malicious server can send one model again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["exposed"]

Rows = npt.NDArray[np.int64]
Lists = frozenset[frozenset[str]]


def exposed(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Returns one client whose update the sums over these lists give, or two if they give a combination; else empty.

    >>> exposed([["a", "b", "c"], ["a", "b", "c", "d"]])
    ('d',)
    >>> exposed([["a", "b", "c"], ["a", "b", "c", "d", "e", "f"]])
    ()
    """
    return _exposed(frozenset(frozenset(one) for one in lists))


@lru_cache(maxsize=256)
def _exposed(lists: Lists) -> tuple[str, ...]:
    members = sorted(frozenset().union(*lists))
    matrix = np.array([[name in one for name in members] for one in sorted(map(sorted, lists))], np.int64)
    rows, pivots = _reduced(matrix.reshape(len(lists), len(members)), _prime())
    few = rows[np.count_nonzero(rows, axis=1) <= 2]  # single clients first: a row of two may combine them
    for row in sorted(few, key=np.count_nonzero):
        return tuple(members[column] for column in np.flatnonzero(row))
    return tuple(sorted(members[column] for column in _parallel(rows, pivots)))


def _parallel(rows: Rows, pivots: list[int]) -> tuple[int, ...]:
    """Pivots of two rows that are proportional off the pivot columns: they combine to a vector of two entries."""
    seen: dict[bytes, int] = {}
    rest = np.delete(rows, pivots, axis=1)
    for row, pivot in zip(rest, pivots, strict=True):
        first = int(row[np.flatnonzero(row)[0]])
        direction = (row * pow(first, -1, _prime()) % _prime()).tobytes()
        if direction in seen:
            return pivot, seen[direction]
        seen[direction] = pivot
    return ()


def _reduced(matrix: Rows, prime: int) -> tuple[Rows, list[int]]:
    """Returns the reduced row echelon form modulo a prime, without zero rows, and its pivot columns."""
    rows, pivots = matrix % prime, list[int]()
    for column in range(rows.shape[1]):
        top = len(pivots)
        below = np.flatnonzero(rows[top:, column])
        if not len(below):
            continue
        rows[[top, top + below[0]]] = rows[[top + below[0], top]]
        rows[top] = rows[top] * pow(int(rows[top, column]), -1, prime) % prime  # below 2^31, so products fit an int64
        others = np.flatnonzero(rows[:, column])
        others = others[others != top]
        rows[others] = (rows[others] - rows[others, column][:, None] * rows[top][None, :]) % prime
        pivots.append(column)
    return rows[: len(pivots)], pivots


@lru_cache(maxsize=1)
def _prime() -> int:
    """Secret random prime in (2^30, 2^31): lists cannot be crafted to have a pivot that vanishes modulo it."""
    while True:
        found = (1 << 30) + 2 * secrets.randbelow(1 << 29) + 1
        if all(found % divisor for divisor in range(3, 46_342, 2)):
            return found

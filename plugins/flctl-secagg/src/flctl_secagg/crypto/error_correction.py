"""Correction of wrong shares: Gao's decoder for Reed-Solomon codes (Gao 2003), up to half the minimum distance."""

from __future__ import annotations

from collections.abc import Sequence

from flctl_secagg.crypto.shamir import PRIME

__all__ = ["Polynomial", "corrected"]

Polynomial = list[int]
"""Coefficients over GF(p), lowest degree first; the leading coefficient is not 0."""


def corrected(points: Sequence[int], shares: Sequence[int], threshold: int) -> Polynomial | None:
    """Returns the polynomial of degree below `threshold` through all but at most (n - threshold) // 2 of the n shares;
    None if there is no such polynomial. Takes O(n^2) operations."""
    count = len(points)
    before, after = _vanishing(points), _interpolated(points, shares)
    before_factor: Polynomial = []
    after_factor: Polynomial = [1]
    while 2 * (len(after) - 1) >= count + threshold:
        quotient, rest = _divided(before, after)
        before, after = after, rest
        before_factor, after_factor = after_factor, _minus(before_factor, _times(quotient, after_factor))
    found, rest = _divided(after, after_factor)
    if rest or len(found) > threshold:
        return None
    return found


def _vanishing(points: Sequence[int]) -> Polynomial:
    """Returns the monic polynomial with a root at each place."""
    made = [1]
    for point in points:
        made = _minus([0, *made], [point * one % PRIME for one in made])
    return made


def _interpolated(points: Sequence[int], shares: Sequence[int]) -> Polynomial:
    """Returns the polynomial of least degree through the shares, by Newton's divided differences."""
    inverse = {d: pow(d, -1, PRIME) for d in range(1, max(points) - min(points) + 1)}
    table = list(shares)
    for step in range(1, len(points)):
        for at in range(len(points) - 1, step - 1, -1):
            gap = points[at] - points[at - step]
            scaled = (table[at] - table[at - 1]) * inverse[abs(gap)]
            table[at] = (scaled if gap > 0 else -scaled) % PRIME
    made: Polynomial = []
    for point, value in zip(reversed(points), reversed(table), strict=True):
        made = _minus([0, *made], [point * one % PRIME for one in made]) if made else []
        made = _minus(made, [-value % PRIME])
    return made


def _minus(one: Polynomial, other: Polynomial) -> Polynomial:
    size = max(len(one), len(other))
    padded = zip(one + [0] * (size - len(one)), other + [0] * (size - len(other)), strict=True)
    made = [(a - b) % PRIME for a, b in padded]
    while made and not made[-1]:
        made.pop()
    return made


def _times(one: Polynomial, other: Polynomial) -> Polynomial:
    made = [0] * (len(one) + len(other) - 1) if one and other else []
    for at, a in enumerate(one):
        for index, b in enumerate(other):
            made[at + index] = (made[at + index] + a * b) % PRIME
    return made


def _divided(one: Polynomial, other: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder."""
    rest, lead = list(one), pow(other[-1], -1, PRIME)
    quotient = [0] * max(len(one) - len(other) + 1, 0)
    for at in range(len(quotient) - 1, -1, -1):
        factor = rest[at + len(other) - 1] * lead % PRIME
        quotient[at] = factor
        for index, b in enumerate(other):
            rest[at + index] = (rest[at + index] - factor * b) % PRIME
    return quotient, _minus(rest, [])

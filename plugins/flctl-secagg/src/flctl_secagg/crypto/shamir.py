"""Shamir's secret sharing of 256-bit secrets (Shamir 1979) over GF(p) with p = 2^256 + 297.

p is the smallest prime above 2^256, so that any 32 bytes are an element; a share takes 33 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["PRIME", "SHARE_BYTES", "combine", "evaluate", "read_share", "split", "value_at", "written"]

PRIME = 2**256 + 297
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, count: int) -> list[int]:
    """Shares at x = 1 .. `count` of a 32-byte secret, any `threshold` of which give it back, fewer nothing."""
    if len(secret) != 32 or not 1 <= threshold <= count:
        raise ValueError(f"a secret of {len(secret)} bytes for {threshold} of {count}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [value_at(coefficients, x) for x in range(1, count + 1)]


def combine(places: Sequence[int], shares: Sequence[int]) -> bytes | None:
    """The secret that the shares at these places are of; None where that is no 32 bytes."""
    return _as_secret(evaluate(tuple(places), shares, 0))


def evaluate(places: tuple[int, ...], shares: Sequence[int], at: int) -> int:
    """The value at `at` of the polynomial of least degree through the shares."""
    return sum(c * y for c, y in zip(_lagrange(places, at), shares, strict=True)) % PRIME


def written(share: int) -> bytes:
    """The share as 33 bytes, big-endian."""
    return share.to_bytes(SHARE_BYTES, "big")


def read_share(data: bytes) -> int | None:
    """The share in 33 bytes; None where they hold no element of the field."""
    value = int.from_bytes(data, "big")
    return value if len(data) == SHARE_BYTES and value < PRIME else None


def _as_secret(value: int) -> bytes | None:
    return value.to_bytes(32, "big") if value < 1 << 256 else None


def value_at(coefficients: Sequence[int], x: int) -> int:
    """The value of a polynomial, whose constant coefficient comes first, at `x`."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


@lru_cache(maxsize=1024)
def _lagrange(places: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Each share's coefficient; survivors share one set of places, so these are computed once."""
    found = []
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = above * (at - other) % PRIME
                below = below * (place - other) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)

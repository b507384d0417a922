"""Shamir's secret sharing of 256-bit secrets (Shamir 1979) over GF(p) with p = 2^256 + 297.

p is the smallest prime above 2^256, so that any 32 bytes encode an element. A share takes 33 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["PRIME", "SHARE_BYTES", "combine", "evaluate", "read_share", "split", "value_at", "written"]

PRIME = 2**256 + 297
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, count: int) -> list[int]:
    """Shares a 32-byte secret at x = 1 .. `count`: any `threshold` shares recover it, and fewer reveal nothing."""
    if len(secret) != 32 or not 1 <= threshold <= count:
        raise ValueError(f"a secret of {len(secret)} bytes for {threshold} of {count}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [value_at(coefficients, x) for x in range(1, count + 1)]


def combine(points: Sequence[int], shares: Sequence[int]) -> bytes | None:
    """Reconstructs the secret from shares at these places (x); None if the result exceeds 32 bytes."""
    return _as_secret(evaluate(tuple(points), shares, 0))


def evaluate(points: tuple[int, ...], shares: Sequence[int], at: int) -> int:
    """The value at `at` of the polynomial of least degree through the shares."""
    return sum(c * y for c, y in zip(_lagrange(points, at), shares, strict=True)) % PRIME


def written(share: int) -> bytes:
    """The share as 33 bytes, big-endian."""
    return share.to_bytes(SHARE_BYTES, "big")


def read_share(data: bytes) -> int | None:
    """Reads a share from 33 bytes; None if they do not encode a field element."""
    value = int.from_bytes(data, "big")
    return value if len(data) == SHARE_BYTES and value < PRIME else None


def _as_secret(value: int) -> bytes | None:
    return value.to_bytes(32, "big") if value < 1 << 256 else None


def value_at(coefficients: Sequence[int], x: int) -> int:
    """Evaluates a polynomial at `x` (Horner); coefficients from the constant up."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


@lru_cache(maxsize=1024)
def _lagrange(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange coefficient of each share. Cached: many owners' shares come from the same places."""
    found = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * (at - other) % PRIME
                below = below * (point - other) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)

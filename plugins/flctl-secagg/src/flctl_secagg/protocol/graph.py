"""Masking graph: the Harary graph H(n, k) on a publicly shuffled ring of clients (Bell et al. 2020, section 3)."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["neighbours_of", "ring"]


def neighbours_of(index: int, count: int, degree: int, seed: bytes) -> tuple[int, ...]:
    """Returns the neighbours of the client at `index`, ascending; all others if `degree` is `count` - 1 or more."""
    if degree >= count - 1:
        return tuple(other for other in range(count) if other != index)
    order, position = _ring(count, seed)
    half = degree // 2
    at = position[index]
    return tuple(sorted(order[(at + step) % count] for step in range(-half, half + 1) if step))


def ring(count: int, seed: bytes) -> tuple[int, ...]:
    """Returns the clients in ring order, sorted by 16 bytes of keystream each: all orders are equally likely."""
    return _ring(count, seed)[0]


@lru_cache(maxsize=64)
def _ring(count: int, seed: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    key = hashlib.sha256(b"graph" + seed).digest()
    stream = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:])).encryptor().update(bytes(16 * count))
    order = sorted(range(count), key=lambda client: stream[16 * client : 16 * client + 16])
    position = [0] * count
    for at, client in enumerate(order):
        position[client] = at
    return tuple(order), tuple(position)

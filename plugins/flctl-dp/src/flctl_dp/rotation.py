"""The randomised Hadamard rotation: it spreads a vector evenly over all coordinates, and is undone on the sum."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["hadamard", "padded", "rotated", "signs_of", "unrotated"]

Float = npt.NDArray[np.float64]
_BLOCK = 64
"""Coordinates that one matrix product mixes: small enough for the cache, large enough for few passes."""


def padded(size: int) -> int:
    """The least power of two that holds so many values."""
    return 1 << max(size - 1, 0).bit_length()


def signs_of(rng: np.random.Generator, dimension: int) -> npt.NDArray[np.int8]:
    """Signs [dimension], -1 or 1 with equal probability: all clients of a round and the server draw the same. They make
    no secret, and no privacy rests on them."""
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-dimension // 8)), np.uint8))[:dimension]
    return (1 - 2 * bits.astype(np.int8)).astype(np.int8)


def rotated(vector: Float, signs: npt.NDArray[np.int8]) -> Float:
    """H diag(signs) v, for v padded with zeros to the signs' length D; an isometry (Ailon and Chazelle 2006).

    Each coordinate is a sum of v's values by random signs over sqrt(D): sub-Gaussian of variance |v|^2 / D.
    """
    wide = np.zeros(signs.size)
    wide[: vector.size] = vector
    wide *= signs
    return hadamard(wide)


def unrotated(vector: Float, signs: npt.NDArray[np.int8], size: int) -> Float:
    """The first `size` values of the vector that `rotated` makes this of."""
    turned = hadamard(vector)
    turned *= signs
    return turned[:size]


def hadamard(vector: Float) -> Float:
    """H v for the orthonormal Walsh-Hadamard matrix (Sylvester's order) of v's size D, a power of two; H H = 1.

    Matrix products mix up to 64 coordinates each: H is the Kronecker product of smaller ones. Each pass takes the top
    digit of the index and moves it to the bottom, so that after the last one the order is as it was.
    """
    left = vector.size
    while left > 1:
        width = min(left, _BLOCK)
        vector = np.ascontiguousarray((_matrix(width) @ vector.reshape(width, -1)).T).reshape(-1)
        left //= width
    return np.array(vector, np.float64)


@lru_cache(maxsize=8)
def _matrix(width: int) -> Float:
    """The orthonormal Walsh-Hadamard matrix [width, width]."""
    matrix = np.ones((1, 1))
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]) / math.sqrt(2)
    return matrix

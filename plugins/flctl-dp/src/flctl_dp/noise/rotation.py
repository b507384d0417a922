"""The randomised Hadamard rotation: it spreads a vector evenly over all coordinates, and is undone on the sum."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["hadamard", "padded", "rotated", "signs_of", "unrotated"]

Float = npt.NDArray[np.float64]


def padded(size: int) -> int:
    """The least power of two that is at least `size`."""
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

    log2(D) passes of sums and differences (Fino and Algazi 1976). Nothing is left to a matrix library, whose threads
    wait for each other for longer than this takes.
    """
    here, there = np.array(vector, np.float64), np.empty(vector.size)
    half = vector.size // 2
    while half:
        pairs, mixed = here.reshape(-1, 2, half), there.reshape(-1, 2, half)
        np.add(pairs[:, 0], pairs[:, 1], out=mixed[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=mixed[:, 1])
        here, there, half = there, here, half // 2
    here /= math.sqrt(vector.size)
    return here

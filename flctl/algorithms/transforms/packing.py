"""Small whole numbers side by side in bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "packed_size", "unpack"]

Words = npt.NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """How many bytes so many numbers take."""
    return -(-count * bits // 8)


def pack(words: Words, bits: int) -> Words:
    """Numbers below 2^bits [n], each in `bits` bits, the highest first, one after the other; zeros fill the last
    byte."""
    if bits == 8:
        return words
    return np.packbits(np.unpackbits(words[:, None], axis=1)[:, 8 - bits :])


def unpack(packed: Words, bits: int, count: int) -> Words:
    """The first `count` numbers of what `pack` made."""
    if bits == 8:
        return packed[:count]
    spread = np.zeros((count, 8), np.uint8)
    spread[:, 8 - bits :] = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.packbits(spread, axis=1)[:, 0]

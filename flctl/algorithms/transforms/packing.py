"""Bit packing: integers of 1 to 8 bits, contiguous in bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "packed_size", "unpack"]

Words = npt.NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Returns the number of bytes that `count` integers of `bits` bits take."""
    return -(-count * bits // 8)


def pack(words: Words, bits: int) -> Words:
    """Packs integers below 2^bits [n] into `bits` bits each, most significant bit first; the last byte is padded with
    zeros."""
    if bits == 8:
        return words
    return np.packbits(np.unpackbits(words[:, None], axis=1)[:, 8 - bits :])


def unpack(packed: Words, bits: int, count: int) -> Words:
    """Returns the first `count` integers of a result of `pack`."""
    if bits == 8:
        return packed[:count]
    spread = np.zeros((count, 8), np.uint8)
    spread[:, 8 - bits :] = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.packbits(spread, axis=1)[:, 0]

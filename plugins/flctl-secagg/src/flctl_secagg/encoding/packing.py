"""Words of 16, 20, 24, 32 or 64 bits: in unsigned integers for arithmetic, packed for transport."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import counted

__all__ = ["WIDTHS", "Words", "lane", "pack", "packed_bytes", "reduce", "signed", "unpack"]

Words = npt.NDArray[Any]
WIDTHS = (16, 20, 24, 32, 64)
_CHUNK = 1 << 15
_LANES = {16: "<u2", 20: "<u4", 24: "<u4", 32: "<u4", 64: "<u8"}


def lane(bits: int) -> np.dtype[Any]:
    """Unsigned dtype for arithmetic on words of `bits` bits; it wraps at its own width, which may be larger."""
    return np.dtype(_LANES[bits])


def packed_bytes(bits: int, count: int) -> int:
    """Bytes that `count` packed words take: two words of 20 bits take 5, and an unpaired last one takes 3."""
    return (bits * count + 7) // 8


def reduce(words: Words, bits: int) -> Words:
    """Reduces words modulo 2^bits in place, and returns them."""
    if bits < words.itemsize * 8:
        np.bitwise_and(words, words.dtype.type((1 << bits) - 1), out=words)
    return words


def pack(words: Words, bits: int) -> bytes | bytearray:
    """Packs words, each below 2^bits, little-endian and without gaps. Works in chunks, so that the result is the only
    large allocation."""
    if bits == words.itemsize * 8:
        return words.tobytes()
    packed = bytearray(packed_bytes(bits, words.size))
    out = np.frombuffer(packed, np.uint8)
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        raw = _three_bytes(part) if bits == 24 else _five_bytes(part)
        out[packed_bytes(bits, start) :][: packed_bytes(bits, part.size)] = raw[: packed_bytes(bits, part.size)]
    return packed


def _three_bytes(words: Words) -> Words:
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)


def _five_bytes(words: Words) -> Words:
    even = np.zeros((words.size + 1) // 2 * 2, "<u8")
    even[: words.size] = words
    pairs = even[0::2] | (even[1::2] << np.uint64(20))
    low: Words = pairs.view(np.uint8).reshape(-1, 8)[:, :5].reshape(-1)
    return low


def unpack(data: bytes | memoryview, bits: int, count: int) -> Words:
    """Unpacks what `pack` returned, into new memory. Raises ValueError if the number of bytes is wrong, or padding
    bits after the last word are set."""
    if len(data) != packed_bytes(bits, count):
        raise ValueError(f"found {len(data)} bytes, expected {counted(count, 'word')} of {bits} bits")
    dtype = lane(bits)
    if bits == dtype.itemsize * 8:
        return np.frombuffer(data, dtype).copy()
    if bits == 24:
        wide = np.zeros((count, 4), np.uint8)
        wide[:, :3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view(dtype)
    return _twenty(data, count, dtype)


def _twenty(data: bytes | memoryview, count: int, dtype: np.dtype[Any]) -> Words:
    wide = np.zeros(((count + 1) // 2, 8), np.uint8)
    whole = np.zeros(wide.shape[0] * 5, np.uint8)
    whole[: len(data)] = np.frombuffer(data, np.uint8)
    wide[:, :5] = whole.reshape(-1, 5)
    pairs = wide.reshape(-1).view("<u8")
    words = np.empty(2 * len(pairs), dtype)
    words[0::2] = pairs & np.uint64(0xFFFFF)
    words[1::2] = pairs >> np.uint64(20)
    if words[count:].any():
        raise ValueError("bits are set beyond the last word")
    return words[:count]


def signed(words: Words, bits: int) -> npt.NDArray[np.int64]:
    """Reads words as signed integers in [-2^(bits-1), 2^(bits-1)), by two's complement."""
    if bits == 64:
        return words.view("<i8").astype(np.int64, copy=False)
    shift = np.int64(64 - bits)
    return np.right_shift(np.left_shift(words.astype(np.int64), shift), shift)

"""Masks: AES in counter mode, added to a vector of words modulo 2^w while the keystream is still in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

__all__ = ["CHUNK", "Ciphers", "Stream", "add_masks", "keystream", "seed_bytes"]

Ciphers = Literal["aes-128-ctr", "aes-256-ctr"]
Stream = tuple[bytes, bool]
"""Seed of a mask, and True to add the mask or False to subtract it."""
Words = npt.NDArray[Any]
CHUNK = 1 << 17
"""Bytes per chunk; a chunk and its keystream fit in the L2 cache."""
_AT_ONCE = 512
"""Cipher contexts open at a time; a server may have thousands of masks to subtract."""
_SLACK = 16
"""`update_into` requires a buffer one block longer than its output."""
_ZEROS = bytes(CHUNK)


def seed_bytes(cipher: Ciphers) -> int:
    """Length of a seed in bytes: the AES key and the first counter block of 16 bytes; at least 256 bits."""
    return 48 if cipher == "aes-256-ctr" else 32


def keystream(seed: bytes) -> CipherContext:
    """AES-CTR (NIST SP 800-38A) from a seed of 32 bytes (AES-128) or 48 (AES-256): key, then the first counter."""
    if len(seed) not in (32, 48):
        raise ValueError(f"a mask's seed has {len(seed)} bytes, expected 32 or 48")
    return Cipher(algorithms.AES(seed[:-16]), modes.CTR(seed[-16:])).encryptor()


def add_masks(words: Words, streams: Iterable[Stream]) -> None:
    """Adds or subtracts each stream's mask in place. `words`: [d] of uint16, uint32 or uint64, little-endian.

    Each word is masked over its whole lane, so that its low w bits are uniform for any w up to the lane's width.
    """
    left = iter(streams)
    while batch := list(islice(left, _AT_ONCE)):
        _add(words, batch)


def _add(words: Words, streams: Sequence[Stream]) -> None:
    buffer = bytearray(CHUNK + _SLACK)
    masks = np.frombuffer(buffer, words.dtype, count=CHUNK // words.itemsize)
    opened = [(keystream(seed).update_into, np.add if adds else np.subtract) for seed, adds in streams]
    zeros = memoryview(_ZEROS)
    for part in _parts(words):
        blank, mask = zeros[: part.nbytes], masks[: part.size]
        for fill, change in opened:
            fill(blank, buffer)
            change(part, mask, out=part)
    buffer[:] = bytes(len(buffer))


def _parts(words: Words) -> Iterator[Words]:
    step = CHUNK // words.itemsize
    return (words[start : start + step] for start in range(0, words.size, step))

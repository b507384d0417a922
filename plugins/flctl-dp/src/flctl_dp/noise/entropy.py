"""Unpredictable random words: AES-256 in counter mode under a key of the operating system."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["Words", "insecure_words", "secure_words"]

_KEY, _COUNTER = 32, 16
_MOST = 1 << 26
"""Bytes drawn at once; more come in parts, so that nothing is asked to hold them twice."""


class Words:
    """A stream of uniform words: the AES-256-CTR key stream (NIST SP 800-38A) of one key, which is used for nothing
    else. Words that were handed out are not kept."""

    def __init__(self, key: bytes) -> None:
        self._stream: Any = Cipher(algorithms.AES(key), modes.CTR(bytes(_COUNTER))).encryptor()

    def draw(self, count: int, dtype: npt.DTypeLike = np.uint64) -> npt.NDArray[Any]:
        """`count` words [count] of an unsigned dtype, each value equally probable."""
        kind = np.dtype(dtype).newbyteorder("<")
        size = count * kind.itemsize
        out = bytearray(size + _COUNTER - 1)
        view, zeros = memoryview(out), bytes(min(size, _MOST))
        for start in range(0, size, _MOST):
            part = min(_MOST, size - start)
            self._stream.update_into(zeros[:part], view[start : start + part + _COUNTER - 1])
        return np.frombuffer(out, kind, count)

    def below(self, bound: int) -> int:
        """A whole number in [0, bound), each equally probable."""
        size = (bound.bit_length() + 7) // 8
        excess = 8 * size - bound.bit_length()
        while True:
            value = int.from_bytes(self.draw(size, np.uint8).tobytes(), "big") >> excess
            if value < bound:
                return value


def secure_words() -> Words:
    """A stream under a new key of the operating system."""
    return Words(os.urandom(_KEY))


def insecure_words(*names: int | str) -> Words:
    """The stream that `names` address, the same whenever they are given: for tests, and no protection at all."""
    return Words(hashlib.sha256(repr(("flctl-dp-insecure/1", *names)).encode()).digest())

"""Integers as short words that any aggregator adds up exactly: no rounding, no clipping, no weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from flctl.errors import IncompatibleError, ProtocolError, counted
from flctl.types import IntArray

__all__ = ["WholeSums"]

_EXACT = 63
"""Bits of the sums of an aggregator without a ring, int64."""


@dataclass(frozen=True, slots=True)
class WholeSums:
    """Code of `values` integers of `bits` bits with sign, as words of `limb` bits each.

    >>> code = WholeSums.fitting(2, 64, ring=16, clients=100)
    >>> words = code.encode([70_000, -3]) + code.encode([1, -4])
    >>> code.limb, code.decode(words)
    (8, [70001, -7])
    """

    values: int
    bits: int
    limb: int

    @classmethod
    def fitting(cls, values: int, bits: int, ring: int | None, clients: int) -> Self:
        """Returns the code with the longest words whose sums over `clients` do not leave the ring of 2^`ring`.

        Raises IncompatibleError if the ring is too small for that number of clients.
        """
        room = (_EXACT if ring is None else ring - 1) - clients.bit_length()
        limb = next((size for size in (32, 16, 8) if size <= room), None)
        if limb is None:
            raise IncompatibleError(
                f"sums of {ring} bits are too small for counts of {counted(clients, 'client')}",
                hint="Use more bits (aggregator.bits), or evaluate on the server's rows: eval.at=server.",
            )
        return cls(values, bits, limb)

    @property
    def words(self) -> int:
        """Number of words."""
        return self.values * self.bits // self.limb

    def encode(self, values: Iterable[int]) -> IntArray:
        """Returns the words of the integers. Raises ProtocolError for another number of them, or one that is too
        large."""
        size, most = self.bits // 8, 1 << (self.bits - 2)
        whole = [int(value) for value in values]
        if len(whole) != self.values or not all(-most < value < most for value in whole):
            raise ProtocolError(f"{counted(len(whole), 'sum')}, or one of more than {self.bits} bits")
        raw = b"".join((value % (1 << self.bits)).to_bytes(size, "little") for value in whole)
        return np.frombuffer(raw, f"<u{self.limb // 8}").astype(np.int64)

    def decode(self, words: npt.NDArray[np.integer]) -> list[int]:
        """Returns the sums of the integers from the sums of their words."""
        limbs = words.reshape(self.values, -1)
        total = np.zeros(self.values, object)
        for position in range(limbs.shape[1]):
            total = total + (limbs[:, position].astype(object) << (self.limb * position))
        modulus = 1 << self.bits
        return [(int(value) + modulus // 2) % modulus - modulus // 2 for value in total]

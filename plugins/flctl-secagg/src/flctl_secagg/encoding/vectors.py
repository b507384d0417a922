"""Encodes float vectors as words modulo 2^w whose sum over clients cannot overflow, and decodes sums.

A long vector, premultiplied by its client's weight, is clipped per coordinate, scaled so that n clients fill the ring,
and rounded stochastically, which is unbiased. Short vectors and the weight are 64-bit fixed-point numbers, split into
limbs over several words. Vectors whose names end in `flctl.RING` hold integers, one word each, summed modulo 2^w. All
words are summed in the same way, so that the result reveals sums only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import RING, Arrays, IncompatibleError, ProtocolError
from flctl.errors import counted
from flctl_secagg.crypto.masks import keystream
from flctl_secagg.encoding.packing import Words, lane, packed_bytes, signed

__all__ = ["FEW", "FRACTION", "WEIGHT", "Decoded", "Encoding"]

WEIGHT = "weight"
FEW = 16
"""Vectors up to this length are sent as 64-bit fixed-point numbers: counts of steps, normalisers, losses."""
FRACTION = 24
"""Fraction bits of fixed-point numbers."""
LEAST_LEVELS = 16
_WIDE = 64
_CHUNK = 1 << 14
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoded sum of words: the sums of vectors and of weights, and the number of clients that clipped a value."""

    arrays: Arrays
    weight: float
    clipped: int


@dataclass(frozen=True)
class Encoding:
    """Encoding of vectors of `layout` (without the weight) as words of `bits` bits, for sums of `count` clients.

    `clip` bounds each coordinate of a long vector before it is multiplied by its weight. Weights above `max_weight`
    are reduced to it. Raises IncompatibleError if the ring leaves fewer than 16 levels for each sign, or if the sum of
    weights could overflow.
    """

    layout: tuple[tuple[str, int], ...]
    bits: int
    count: int
    clip: float
    max_weight: float

    def __post_init__(self) -> None:
        if self.levels < LEAST_LEVELS:
            raise IncompatibleError(
                f"words of {self.bits} bits have {self.levels} levels for each of {counted(self.count, 'client')}, at "
                f"least {LEAST_LEVELS} are needed",
                hint="Use more bits (aggregator.bits), or smaller cohorts.",
            )
        if self.max_weight > self.largest:
            raise IncompatibleError(
                f"weights up to {self.max_weight:g} may overflow their sum; the limit is {self.largest:g}",
                hint="Lower aggregator.max_weight, or use smaller weights.",
            )

    @cached_property
    def levels(self) -> int:
        """Q: values are integers in [-Q, Q], with n Q < 2^(w-1). Q has 53 significant bits at most: a float64."""
        most = ((1 << (self.bits - 1)) - 1) // max(self.count, 1)
        extra = max(most.bit_length() - 53, 0)
        return most >> extra << extra

    @property
    def scale(self) -> float:
        """Levels per unit of a premultiplied value."""
        return self.levels / (self.clip * self.max_weight)

    @property
    def rounding(self) -> float:
        """Upper bound on the rounding error of a premultiplied vector, in L2 norm; clipping is not included."""
        few = sum(n for name, n in self.layout if n <= FEW and not name.endswith(RING))
        many = sum(n for name, n in self.layout if n > FEW and not name.endswith(RING))
        return math.sqrt(many / self.scale**2 + few / (1 << 2 * FRACTION))

    @property
    def limb(self) -> int:
        """Bits of a limb: the part of a fixed-point number in one word. The sum of n limbs cannot overflow a word."""
        return min(self.bits - self.count.bit_length(), 32)

    @property
    def limbs(self) -> int:
        """Words (limbs) per fixed-point number."""
        return -(-_WIDE // self.limb)

    @cached_property
    def words(self) -> int:
        """d': number of words of a masked vector."""
        values = sum(self._width(name, length) for name, length in self.layout)
        return values + len(self.layout) + self.limbs + 2

    @property
    def bytes(self) -> int:
        """Size of a packed masked vector, in bytes."""
        return packed_bytes(self.bits, self.words)

    @property
    def largest(self) -> float:
        """Largest magnitude of a fixed-point number."""
        return float((1 << (_WIDE - 2 - FRACTION)) // self.count)

    def encode(self, vector: Arrays) -> Words:
        """Encodes premultiplied vectors and their weight as words [d']. Raises ProtocolError if a value is not finite,
        an integer exceeds the ring, or the layout differs."""
        return self.encode_counted(vector)[0]

    def encode_counted(self, vector: Arrays) -> tuple[Words, dict[str, int]]:
        """Like `encode`; also returns the number of clipped values by vector."""
        weight = self._weight(vector)
        found = tuple((name, array.size) for name, array in vector.items() if name != WEIGHT)
        if dict(found) != dict(self.layout):
            raise ProtocolError("the vectors to sum do not have the layout of the session")
        words, flags, at = np.empty(self.words, lane(self.bits)), [], 0
        clipped: dict[str, int] = {}
        for name, length in self.layout:
            part = words[at : at + self._width(name, length)]
            whole = vector[name].dtype.kind in "iu"
            if name.endswith(RING):
                self._fill_ring(part, np.asarray(vector[name]), weight)
            else:
                clipped[name] = self._fill(part, np.asarray(vector[name]), weight, whole=whole)
            flags.append(int(whole))
            at += part.size
        used = min(weight, self.max_weight)
        words[at : at + len(flags)] = flags
        words[at + len(flags) : -2] = self._spread(np.array([round(used * (1 << FRACTION))], np.int64))
        words[-2:] = [int(any(clipped.values()) or weight > self.max_weight != 1), 1]
        return words, clipped

    def decode(self, words: Words, survivors: int) -> Decoded:
        """Decodes the modular sum of the words of `survivors` clients.

        Raises ProtocolError if that number of clients cannot reach the sum with words of `encode`. Words forged within
        these bounds go undetected; detecting them would take range proofs.
        """
        ones, clipped = int(words[-1]), int(words[-2])
        if ones != survivors or clipped > survivors:
            raise _forged(survivors, f"the sum counts {counted(ones, 'client')}, and {clipped} with clipped values")
        weight = self._fixed_point(words[-2 - self.limbs : -2], survivors, "weight")[0]
        most = survivors * round(self.max_weight * (1 << FRACTION))
        if not 0 < weight <= most:
            raise _forged(
                survivors,
                f"the weights sum to {weight / (1 << FRACTION):g}, outside of (0, {most / (1 << FRACTION):g}]",
            )
        total = weight / (1 << FRACTION)
        at, arrays = 0, {}
        flags = words[-2 - self.limbs - len(self.layout) : -2 - self.limbs]
        for (name, length), flag in zip(self.layout, flags.tolist(), strict=True):
            if flag != survivors and (flag or name.endswith(RING)):
                raise _forged(survivors, f"{flag} sent '{name}' as whole numbers")
            part = words[at : at + self._width(name, length)]
            arrays[name] = self._summed(name, part, survivors, None if flag else total)
            at += part.size
        return Decoded(arrays, total, clipped)

    def _width(self, name: str, length: int) -> int:
        """Number of words of a vector."""
        return length if length > FEW or name.endswith(RING) else length * self.limbs

    def _weight(self, vector: Arrays) -> float:
        """Returns the client's weight. Raises ProtocolError if it is missing, negative or not finite."""
        if WEIGHT not in vector or vector[WEIGHT].size != 1:
            raise ProtocolError("the vectors to sum have no weight")
        weight = float(vector[WEIGHT][0])
        if not 0 <= weight < np.inf:
            raise ProtocolError("the weight is negative or not finite")
        return weight

    def _fill(self, part: Words, values: npt.NDArray[Any], weight: float, *, whole: bool) -> int:
        """Writes a vector's words into `part`; returns the number of clipped values."""
        if whole:
            self._fill_whole(part, values, weight)
            return 0
        factor = min(1.0, self.max_weight / weight) if weight else 1.0
        if values.size <= FEW:
            return self._fill_few(part, values.astype(np.float64) * factor)
        return self._fill_many(part, values, factor, self.clip * min(weight, self.max_weight))

    def _fill_ring(self, part: Words, values: npt.NDArray[Any], weight: float) -> None:
        """Writes integers modulo 2^w, of any magnitude: only their sum modulo 2^w is used."""
        if values.dtype.kind not in "iu":
            raise ProtocolError(f"a vector of the ring has {values.dtype}, expected whole numbers")
        self._require_scaled(weight)
        part[:] = values.astype(np.uint64).astype(part.dtype)  # two's complement; cut to w bits with the masks

    def _require_scaled(self, weight: float) -> None:
        if weight > self.max_weight:
            raise ProtocolError("integers have a weight above the maximum, and cannot be scaled down")

    def _fill_whole(self, part: Words, values: npt.NDArray[Any], weight: float) -> None:
        """Writes integers without rounding. If `max_weight` is 1, a larger weight is divided out first."""
        if weight > self.max_weight == 1:
            values, weight = _divided(values, weight), 1.0
        few = values.size <= FEW
        most = int(self.largest) if few else self.levels
        if values.size and max(int(values.max()), -int(values.min())) > most:
            raise ProtocolError(f"whole numbers beyond {most} do not fit a ring of {self.bits} bits")
        self._require_scaled(weight)
        numbers = values.astype(np.int64)
        part[:] = self._spread(numbers << np.int64(FRACTION)) if few else numbers.astype(part.dtype)

    def _fill_few(self, part: Words, values: Float) -> int:
        _require_finite(values)
        clipped = np.clip(values, -self.largest, self.largest)
        rounded = np.floor(clipped * (1 << FRACTION) + next(_noise(values.size))[: values.size])
        part[:] = self._spread(rounded.astype(np.int64))
        return int(np.count_nonzero(clipped != values))

    def _fill_many(self, part: Words, values: npt.NDArray[Any], factor: float, limit: float) -> int:
        """Clips, scales and rounds stochastically, in chunks that fit the cache; returns the number clipped."""
        highest = float(max(values.max(), -values.min()))  # no copy of the vector; NaN is the maximum of both
        _require_finite(highest)
        signed_lane = np.dtype(f"<i{part.itemsize}")
        most, noise = float(self.levels), _noise(values.size)
        scale, clips, clipped = factor * self.scale, highest * factor > limit, 0
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK].astype(np.float64)
            if clips:
                clipped += int(np.count_nonzero(np.abs(chunk) > limit / factor))
                np.clip(chunk, -limit / factor, limit / factor, out=chunk)
            chunk *= scale
            chunk += next(noise)[: chunk.size]
            np.floor(chunk, out=chunk)
            np.clip(chunk, -most, most, out=chunk)
            part[start : start + _CHUNK] = chunk.astype(signed_lane).view(part.dtype)
        return clipped

    def _spread(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Splits each number, in two's complement modulo 2^64, into limbs, the lowest first."""
        raw, mask = numbers.view(np.uint64)[:, None], np.uint64((1 << self.limb) - 1)
        shifts = (np.arange(self.limbs, dtype=np.uint64) * np.uint64(self.limb))[None, :]
        return ((raw >> shifts) & mask).reshape(-1)

    def _fixed_point(self, words: Words, survivors: int, name: str) -> list[int]:
        """Returns the sums of 64-bit fixed-point numbers from the sums of their limbs. Raises ProtocolError if
        `survivors` clients cannot reach a sum."""
        found, most = [], survivors * (int(self.largest) << FRACTION)
        for row in words.reshape(-1, self.limbs).tolist():
            if max(row) > survivors * ((1 << self.limb) - 1):
                raise _forged(survivors, f"a limb of '{name}' sums to {max(row)}")
            total = sum(limb << (self.limb * index) for index, limb in enumerate(row)) % (1 << _WIDE)
            total -= (1 << _WIDE) if total >> (_WIDE - 1) else 0
            if abs(total) > most:
                raise _forged(survivors, f"a value of '{name}' is {total / (1 << FRACTION):g}")
            found.append(total)
        return found

    def _summed(self, name: str, part: Words, survivors: int, weight: float | None) -> npt.NDArray[Any]:
        """Decodes the sum of one vector: int64 for integers (`weight` None), else float32, or float64 for 64-bit words.
        Raises ProtocolError if `survivors` clients of this total weight cannot reach the sum."""
        if name.endswith(RING):
            return signed(part, self.bits)
        length = dict(self.layout)[name]
        if length <= FEW:
            numbers = np.array(self._fixed_point(part, survivors, name), np.int64)
            return numbers >> np.int64(FRACTION) if weight is None else (numbers / (1 << FRACTION)).astype(self._float)
        found, most = np.empty(length, np.int64 if weight is None else self._float), self._most(survivors, weight)
        for start in range(0, length, _CHUNK):
            numbers = signed(part[start : start + _CHUNK], self.bits)
            highest = max(int(numbers.max()), -int(numbers.min()))
            if highest > most:
                raise _forged(survivors, f"a value of '{name}' is {highest / most:.3g} times the largest possible")
            found[start : start + _CHUNK] = numbers if weight is None else numbers / self.scale
        return found

    def _most(self, survivors: int, weight: float | None) -> int:
        """Largest level of a coordinate of a sum. A client's level is at most Q; before it is rounded, it is also at
        most `clip` times its weight, in levels."""
        if weight is None:
            return survivors * self.levels
        rounded = weight + survivors / (1 << FRACTION)  # weights are rounded to 2^-24 themselves
        return min(survivors * self.levels, math.ceil(rounded * self.clip * self.scale * (1 + 1e-9)) + survivors)

    @property
    def _float(self) -> type[np.floating[Any]]:
        return np.float64 if self.bits == 64 else np.float32


def _forged(survivors: int, found: str) -> ProtocolError:
    return ProtocolError(
        f"the unmasked sum is not that of {counted(survivors, 'client')}: {found}",
        hint="A client sent words that do not encode a vector; it cannot be identified, as only the sum is known.",
    )


def _divided(values: npt.NDArray[Any], weight: float) -> npt.NDArray[Any]:
    """Divides a weight out of premultiplied integers. Raises ProtocolError if they are not multiples of it."""
    if weight != int(weight) or (values % int(weight)).any():
        raise ProtocolError(f"whole numbers are not multiples of their weight {weight:g}")
    return values // int(weight)


def _require_finite(values: Float | float) -> None:
    if not np.isfinite(values).all():
        raise ProtocolError("the vectors to sum have values that are NaN or infinite")


def _noise(count: int) -> Iterator[Float]:
    """Yields chunks of uniform multiples of 2^-32 in [0, 1), from AES-CTR under a fresh key that is not kept."""
    fill = keystream(os.urandom(32)).update_into
    size = min(count, _CHUNK)
    blank, buffer = bytes(4 * size), bytearray(4 * size + 16)
    raw = np.frombuffer(buffer, "<u4", count=size)
    while True:
        fill(blank, buffer)
        yield raw * (1 / (1 << 32))

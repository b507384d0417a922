"""Vectors of fractions as words modulo 2^w whose sum over clients cannot overflow, and back.

A long vector is clipped coordinate by coordinate, multiplied by its client's weight, scaled so that n clients fill the
ring, and rounded at random so that the mean stays. Vectors of a few values, and the weight, are 64-bit fixed-point
numbers that are spread over as many words as they need. Vectors whose names end in `flctl.RING` are whole numbers
already, one word each, and their sum is one modulo 2^w. All words are summed alike, so a sum says nothing but sums.
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
from flctl_secagg.crypto.masks import keystream
from flctl_secagg.encoding.packing import Words, lane, packed_bytes, signed

__all__ = ["FEW", "FRACTION", "WEIGHT", "Decoded", "Encoding"]

WEIGHT = "weight"
FEW = 16
"""Vectors up to this length are sent as 64-bit fixed-point numbers: counts of steps, normalisers, losses."""
FRACTION = 24
"""Bits after the point of those."""
LEAST_LEVELS = 16
_WIDE = 64
_CHUNK = 1 << 14
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a sum of words says: the sums of vectors and weights, and how many clients clipped something."""

    arrays: Arrays
    weight: float
    clipped: int


@dataclass(frozen=True)
class Encoding:
    """How `count` clients turn vectors of `layout` (without the weight) into words of `bits` bits.

    `clip` bounds each coordinate of a long vector before it is multiplied by its weight; weights above `max_weight`
    count as `max_weight`. Raises IncompatibleError where the ring leaves fewer than 16 levels to each sign, or the sum
    of weights could overflow.
    """

    layout: tuple[tuple[str, int], ...]
    bits: int
    count: int
    clip: float
    max_weight: float

    def __post_init__(self) -> None:
        if self.levels < LEAST_LEVELS:
            raise IncompatibleError(
                f"words of {self.bits} bits leave {self.levels} levels to each of {self.count} clients, at least "
                f"{LEAST_LEVELS} are needed",
                hint="Take more bits (aggregator.bits), or smaller cohorts.",
            )
        if self.max_weight > self.largest:
            raise IncompatibleError(
                f"weights up to {self.max_weight:g} may overflow their sum; {self.largest:g} is the most",
                hint="Lower aggregator.max_weight, or give clients smaller weights.",
            )

    @cached_property
    def levels(self) -> int:
        """Q: values are whole numbers in [-Q, Q], with n Q < 2^(w-1); at most 53 bits, so that Q is a float."""
        most = ((1 << (self.bits - 1)) - 1) // max(self.count, 1)
        extra = max(most.bit_length() - 53, 0)
        return most >> extra << extra

    @property
    def scale(self) -> float:
        """Levels for one unit of a premultiplied value."""
        return self.levels / (self.clip * self.max_weight)

    @property
    def rounding(self) -> float:
        """How far, in L2, the words of a premultiplied vector are from it, at most, but for what was clipped."""
        few = sum(n for name, n in self.layout if n <= FEW and not name.endswith(RING))
        many = sum(n for name, n in self.layout if n > FEW and not name.endswith(RING))
        return math.sqrt(many / self.scale**2 + few / (1 << 2 * FRACTION))

    @property
    def limb(self) -> int:
        """Bits of a fixed-point number in one word; n such parts cannot overflow it."""
        return min(self.bits - self.count.bit_length(), 32)

    @property
    def limbs(self) -> int:
        """Words of a fixed-point number."""
        return -(-_WIDE // self.limb)

    @cached_property
    def words(self) -> int:
        """d': the words of a masked vector."""
        values = sum(self._width(name, length) for name, length in self.layout)
        return values + len(self.layout) + self.limbs + 2

    @property
    def bytes(self) -> int:
        """A masked vector on its way."""
        return packed_bytes(self.bits, self.words)

    @property
    def largest(self) -> float:
        """The magnitude that a fixed-point number may have."""
        return float((1 << (_WIDE - 2 - FRACTION)) // self.count)

    def encode(self, vector: Arrays) -> Words:
        """The words [d'] of premultiplied vectors and their weight. Raises ProtocolError for values that are not
        finite, integers beyond the ring, or another layout."""
        return self.encode_counted(vector)[0]

    def encode_counted(self, vector: Arrays) -> tuple[Words, dict[str, int]]:
        """As `encode`, with the number of values of each vector that were clipped."""
        weight = self._weight(vector)
        found = tuple((name, array.size) for name, array in vector.items() if name != WEIGHT)
        if dict(found) != dict(self.layout):
            raise ProtocolError("the vectors to sum are not laid out as the session says")
        words, flags, at = np.empty(self.words, lane(self.bits)), [], 0
        clipped: dict[str, int] = {}
        for name, length in self.layout:
            part = words[at : at + self._width(name, length)]
            whole = vector[name].dtype.kind in "iu"
            if name.endswith(RING):
                self._fill_ring(part, np.asarray(vector[name]), weight)
            else:
                clipped[name] = self._fill(part, np.asarray(vector[name]), weight, whole)
            flags.append(int(whole))
            at += part.size
        used = min(weight, self.max_weight)
        words[at : at + len(flags)] = flags
        words[at + len(flags) : -2] = self._spread(np.array([round(used * (1 << FRACTION))], np.int64))
        words[-2:] = [int(any(clipped.values()) or weight > self.max_weight != 1), 1]
        return words, clipped

    def decode(self, words: Words, survivors: int) -> Decoded:
        """The sums of vectors and of weights in the modular sum of `survivors` clients' words.

        Raises ProtocolError for a sum that no `survivors` clients with words of `encode` can have. A client that forges
        its words within these bounds is not noticed: range proofs would be needed for that.
        """
        ones, clipped = int(words[-1]), int(words[-2])
        if ones != survivors or clipped > survivors:
            raise _forged(survivors, f"{ones} clients are counted, and {clipped} that clipped something")
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
        """The words of a vector."""
        return length if length > FEW or name.endswith(RING) else length * self.limbs

    def _weight(self, vector: Arrays) -> float:
        """The client's weight, checked."""
        if WEIGHT not in vector or vector[WEIGHT].size != 1:
            raise ProtocolError("the vectors to sum have no weight")
        weight = float(vector[WEIGHT][0])
        if not 0 <= weight < np.inf:
            raise ProtocolError("the weight is negative or not finite")
        return weight

    def _fill(self, part: Words, values: npt.NDArray[Any], weight: float, whole: bool) -> int:
        """Writes a vector's words; returns the number of values that were clipped."""
        if whole:
            self._fill_whole(part, values, weight)
            return 0
        factor = min(1.0, self.max_weight / weight) if weight else 1.0
        if values.size <= FEW:
            return self._fill_few(part, values.astype(np.float64) * factor)
        return self._fill_many(part, values, factor, self.clip * min(weight, self.max_weight))

    def _fill_ring(self, part: Words, values: npt.NDArray[Any], weight: float) -> None:
        """Whole numbers modulo 2^w, however large they are: their sum is what counts."""
        if values.dtype.kind not in "iu":
            raise ProtocolError(f"a vector of the ring holds {values.dtype}, expected whole numbers")
        self._require_scaled(weight)
        part[:] = values.astype(np.uint64).astype(part.dtype)  # two's complement; cut to w bits with the masks

    def _require_scaled(self, weight: float) -> None:
        if weight > self.max_weight:
            raise ProtocolError("whole numbers came with a weight above the maximum, and cannot be scaled down")

    def _fill_whole(self, part: Words, values: npt.NDArray[Any], weight: float) -> None:
        """Whole numbers travel as they are, on a lattice already; without their weight if each client counts once."""
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
        """Clips, scales and rounds at random, chunk by chunk in the cache; returns the number of clipped values."""
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
        """Each number's limbs, the lowest first; two's complement modulo 2^64."""
        raw, mask = numbers.view(np.uint64)[:, None], np.uint64((1 << self.limb) - 1)
        shifts = (np.arange(self.limbs, dtype=np.uint64) * np.uint64(self.limb))[None, :]
        return ((raw >> shifts) & mask).reshape(-1)

    def _fixed_point(self, words: Words, survivors: int, name: str) -> list[int]:
        """Sums of 64-bit fixed-point numbers, from the sums of their limbs. Raises ProtocolError beyond what
        `survivors` clients can send."""
        found, most = [], survivors * (int(self.largest) << FRACTION)
        for row in words.reshape(-1, self.limbs).tolist():
            if max(row) > survivors * ((1 << self.limb) - 1):
                raise _forged(survivors, f"a limb of '{name}' sums to {max(row)}")
            total = sum(limb << (self.limb * place) for place, limb in enumerate(row)) % (1 << _WIDE)
            total -= (1 << _WIDE) if total >> (_WIDE - 1) else 0
            if abs(total) > most:
                raise _forged(survivors, f"a value of '{name}' is {total / (1 << FRACTION):g}")
            found.append(total)
        return found

    def _summed(self, name: str, part: Words, survivors: int, weight: float | None) -> npt.NDArray[Any]:
        """The sum of one vector: int64 of whole numbers (`weight` None), else float32, or float64 if words have 64
        bits. Raises ProtocolError beyond what `survivors` clients of this total weight can send."""
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
        """The largest level that a coordinate of a sum can have: each client's is at most Q, and before it is rounded
        at most `clip` times its weight."""
        if weight is None:
            return survivors * self.levels
        rounded = weight + survivors / (1 << FRACTION)  # weights are rounded to 2^-24 themselves
        return min(survivors * self.levels, math.ceil(rounded * self.clip * self.scale * (1 + 1e-9)) + survivors)

    @property
    def _float(self) -> type[np.floating[Any]]:
        return np.float64 if self.bits == 64 else np.float32


def _forged(survivors: int, found: str) -> ProtocolError:
    return ProtocolError(
        f"the unmasked sum is not that of {survivors} clients: {found}",
        hint="A client sent words that no vector gives, and cannot be named, as only the sum is known.",
    )


def _divided(values: npt.NDArray[Any], weight: float) -> npt.NDArray[Any]:
    """The whole numbers that were premultiplied by a weight."""
    if weight != int(weight) or (values % int(weight)).any():
        raise ProtocolError(f"whole numbers are not multiples of their weight {weight:g}")
    return values // int(weight)


def _require_finite(values: Float | float) -> None:
    if not np.isfinite(values).all():
        raise ProtocolError("the vectors to sum have values that are NaN or infinite")


def _noise(count: int) -> Iterator[Float]:
    """Chunks of fractions in [0, 1), multiples of 2^-32, from a key that nobody keeps."""
    fill = keystream(os.urandom(32)).update_into
    size = min(count, _CHUNK)
    blank, buffer = bytes(4 * size), bytearray(4 * size + 16)
    raw = np.frombuffer(buffer, "<u4", count=size)
    while True:
        fill(blank, buffer)
        yield raw * (1 / (1 << 32))

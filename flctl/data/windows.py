"""Next-character windows: text as codes, cut into rows of equal length with the target one character on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.types import PADDING, IntArray

__all__ = ["Vocabulary", "windows"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The characters of a text in code point order; a character's code is its place."""

    points: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of everything in `text`."""
        return cls(np.unique(_points(text)))

    @property
    def characters(self) -> tuple[str, ...]:
        """The characters, by code."""
        return tuple(chr(point) for point in self.points)

    @property
    def dtype(self) -> type[np.uint8 | np.int32]:
        """The smallest type that codes are stored in."""
        return np.uint8 if len(self.points) <= 256 else np.int32

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """The codes [len(text)]; every character must be in the vocabulary."""
        return np.searchsorted(self.points, _points(text)).astype(np.int32)


def _points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def windows(codes: npt.NDArray[np.int32], length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A text's codes [m] as inputs and targets [ceil((m - 1) / length), length], in order, none overlapping.

    `y[i, j]` follows `x[i, j]` in the text. The last row is padded: x with 0, y with -1.
    """
    pairs = max(0, len(codes) - 1)
    rows = -(-pairs // length)
    x, y = np.zeros(rows * length, np.int32), np.full(rows * length, PADDING, np.int32)
    x[:pairs], y[:pairs] = codes[:-1], codes[1:]
    return x.reshape(rows, length), y.reshape(rows, length)


def stacked(
    texts: Sequence[str], vocabulary: Vocabulary, length: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32], IntArray]:
    """The windows of several texts one after another, and how many rows each has."""
    parts = [windows(vocabulary.encode(text), length) for text in texts]
    counts = np.array([len(x) for x, _ in parts], np.int64)
    x = np.concatenate([x.astype(vocabulary.dtype) for x, _ in parts])
    return x, np.concatenate([y for _, y in parts]), counts

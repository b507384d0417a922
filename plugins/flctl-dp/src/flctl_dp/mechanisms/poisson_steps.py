"""The local steps of DP-SGD: rows by secret coins, gradients clipped row by row, noise on their sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from flctl import LocalSteps

from flctl_dp.mechanisms.clipping import shortened, shrinking
from flctl_dp.noise.entropy import Words
from flctl_dp.noise.lattice import Lattice

__all__ = ["PoissonSteps", "coins", "row_bound"]

_DRAWN = 1 << 22
"""Coins that are tossed at once."""


class PoissonSteps(LocalSteps):
    """DP-SGD (Abadi et al. 2016, Algorithm 1) with batches as its accounting takes them: each row by itself, by chance
    `rate`, at each step; sums are divided by the number of rows that is expected, whatever came."""

    def __init__(self, rows: int, steps: int, batch_size: int, bound: float, sigma: float, words: Words) -> None:
        """`batch_size` rows are expected of `rows`; gradients are clipped to `bound`, and get noise of the standard
        deviation `sigma`. Coins and noise are `words`."""
        self._rows, self._steps, self._batch_size = rows, steps, batch_size
        self._bound, self._lattice, self._words = bound, Lattice(sigma), words

    def batches(self) -> Iterator[npt.NDArray[np.int64]]:
        at_once = max(1, _DRAWN // max(self._rows, 1))
        for start in range(0, self._steps, at_once):
            count = min(at_once, self._steps - start)
            tossed = coins(self._words, self._batch_size / self._rows, count * self._rows)
            for taken in tossed.reshape(count, self._rows):
                yield np.flatnonzero(taken).astype(np.int64)

    def factors(self, norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return shrinking(norms, self._bound)

    def gradient(self, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self._lattice.noised(total, self._words) / self._batch_size


def row_bound(clip: float, noise: float, coordinates: int) -> float:
    """The norm to clip gradients of rows to; their sums are in float64. Raises ConfigError as `shortened` does."""
    return shortened(clip, noise, coordinates, of="a gradient")


def coins(words: Words, chance: float, count: int) -> npt.NDArray[np.bool_]:
    """`count` independent coins [count], each True by `chance`, rounded down to a multiple of 2^-64."""
    if chance >= 1:
        return np.ones(count, np.bool_)
    return np.asarray(words.draw(count) < np.uint64(int(chance * 2**64)))

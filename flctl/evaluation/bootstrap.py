"""Bootstrap intervals over rows or clients: seeded draws with replacement, and percentiles of a statistic over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flctl import seeds
from flctl.types import FloatArray, IntArray

__all__ = ["BLOCKS", "CONFIDENCE", "RESAMPLES", "draws", "percentile_interval", "resampled_sums"]

RESAMPLES = 2000
"""Draws of a bootstrap."""
BLOCKS = 10_000
"""Rows above which `resampled_sums` draws blocks of rows."""
CONFIDENCE = 0.95


def draws(count: int, seed: int, resamples: int = RESAMPLES) -> Iterator[IntArray]:
    """Yields, for each draw of `count` items with replacement, how often each item is in it [count].

    Equal arguments give equal draws: statistics of two models over the same draws are paired.
    """
    yield from _draws(count, seeds.rng(seed, "bootstrap"), resamples)


def resampled_sums(columns: FloatArray, seed: int) -> FloatArray:
    """Returns the sums of `columns` [n, c] over each of `RESAMPLES` draws of rows with replacement, [RESAMPLES, c].

    More than `BLOCKS` rows are first added up in that many random blocks, which are as independent as the rows
    and whose sums have the same variance, so the cost does not grow with the test set.
    """
    rng = seeds.rng(seed, "bootstrap")
    if len(columns) > BLOCKS:
        block = rng.permutation(len(columns)) % BLOCKS
        columns = np.stack([np.bincount(block, column, BLOCKS) for column in columns.T], axis=1)
    return np.stack([draw @ columns for draw in _draws(len(columns), rng, RESAMPLES)])


def percentile_interval(values: FloatArray) -> tuple[float, float]:
    """Returns (low, high), the percentile interval of a statistic's values over draws [RESAMPLES] (Efron and
    Tibshirani 1993, chapter 13)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _draws(count: int, rng: np.random.Generator, resamples: int) -> Iterator[IntArray]:
    for _ in range(resamples):
        yield np.bincount(rng.integers(count, size=count), minlength=count)

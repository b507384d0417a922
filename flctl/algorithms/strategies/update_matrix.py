"""Clients' updates as the columns of a matrix that is never whole in memory, for Byzantine-robust strategies.

A column is all vectors of an update end to end: a rule that looked at `delta` alone would leave the model's buffers to
a malicious client. Columns are ordered by client id, so that results do not depend on the order of arrival, bit for
bit. Values beyond float32's range, which no honest client sends, are clamped to it; products of float32 values stay
finite in float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.algorithms.strategy import Strategy
from flctl.errors import IncompatibleError, counted
from flctl.types import Arrays, ClientUpdate, FloatArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = [
    "Block",
    "Least",
    "Robust",
    "Weighing",
    "by_column",
    "distances",
    "mix",
    "norms",
    "products",
    "trimmed",
    "weights",
]

Block = npt.NDArray[np.float32]

_ELEMENTS = 1 << 20
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Least:
    """Smallest number of updates that a rule needs, and the formula in its options that gives it."""

    updates: int
    formula: str


class Robust(Strategy):
    """A strategy that computes the next model from single updates; a subclass defines `rule` and `least`."""

    def least(self) -> Least:
        """Returns the smallest number of updates that the rule needs."""
        return Least(1, "1")

    @abstractmethod
    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        """Returns one value for each vector, from at least `least` updates in the order of their clients' ids."""

    def check(self, run: RunInfo) -> None:
        """Raises IncompatibleError if cohorts are too small for the rule; on average, if their size is random."""
        if run.cohort_size < self.least().updates:
            raise self._too_few(f"a cohort is {counted(run.cohort_size, 'client')}")

    def combine(self, updates: Sequence[ClientUpdate]) -> Arrays:
        """Raises IncompatibleError if too few clients answered for the rule's guarantee to hold."""
        if len(updates) < self.least().updates:
            raise self._too_few(f"{len(updates)} arrived")
        return self.rule(sorted(updates, key=lambda update: update.client_id))

    def _too_few(self, found: str) -> IncompatibleError:
        least, options = self.least(), self.config.model_dump()
        chosen = ", ".join(f"{name} {value}" for name, value in options.items() if name in least.formula)
        because = f" ({least.formula}, with {chosen})" if chosen else ""
        return IncompatibleError(
            f"{self.name} needs at least {counted(least.updates, 'update')}{because}, and {found}",
            hint="Raise --clients-per-round, or lower the tolerated number of malicious clients.",
        )


class Weighing(Robust):
    """A robust rule with one coefficient for each client: the result is sum_i c_i u_i."""

    @abstractmethod
    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        """Returns the coefficients c [n]."""

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        return mix(rows, self.weigh(rows))


def blocks(rows: Sequence[ClientUpdate], name: str) -> Iterator[tuple[slice, Block]]:
    """Yields the vector `name` of all updates, a few columns at a time: (slice, values [columns, n]), each a fresh
    copy."""
    # At most 2^20 values (4 MiB of float32) at once, whatever the size of the model and the cohort.
    length, width = rows[0].arrays[name].size, max(1, _ELEMENTS // len(rows))
    for start in range(0, length, width):
        part = slice(start, min(start + width, length))
        block = np.empty((part.stop - part.start, len(rows)), np.float32)
        for position, row in enumerate(rows):
            block[:, position] = _in_range(row.arrays[name][part])
        yield part, block


def _in_range(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # A cast of larger float64 values to float32 would give infinity, and infinity - infinity NaN for every client.
    return values if values.dtype in (np.float32, np.float16) else np.clip(values, -_LARGEST, _LARGEST)


def by_column(rows: Sequence[ClientUpdate], rule: Callable[[Block], npt.NDArray[Any]]) -> Arrays:
    """Applies `rule` to each coordinate's n values: from a block [columns, n], which it may change, to [columns]."""
    result = {name: np.empty(vector.size, np.float32) for name, vector in rows[0].arrays.items()}
    for name, vector in result.items():
        for part, block in blocks(rows, name):
            vector[part] = rule(block)
    return result


def mix(rows: Sequence[ClientUpdate], coefficients: FloatArray) -> Arrays:
    """Returns sum_i c_i u_i, added up in float64."""
    return by_column(rows, lambda block: block.astype(np.float64) @ coefficients)


def weights(rows: Sequence[ClientUpdate], *, weighted: bool) -> FloatArray:
    """Returns the clients' shares [n], which sum to 1: in proportion to their weights, or equal."""
    claimed = np.array([row.weight if weighted else 1.0 for row in rows])
    shares = claimed / claimed.max()  # a malicious client may claim 1e308: the sum of such weights would overflow
    return np.asarray(shares / shares.sum())


def norms(rows: Sequence[ClientUpdate]) -> FloatArray:
    """Returns the L2 norms [n] of the updates."""
    squared = np.zeros(len(rows))
    for name in rows[0].arrays:
        for _, block in blocks(rows, name):
            squared += np.square(block, dtype=np.float64).sum(axis=0)
    return np.sqrt(squared)


def products(rows: Sequence[ClientUpdate]) -> FloatArray:
    """Returns the inner products <u_i, u_j> [n, n] of the updates, in float64 (values up to 1e38 do not overflow)."""
    gram = np.zeros((len(rows), len(rows)))
    for name in rows[0].arrays:
        for _, block in blocks(rows, name):
            wide = block.astype(np.float64)
            gram += wide.T @ wide
    return gram


def distances(gram: FloatArray) -> FloatArray:
    """Returns the squared distances ||u_i - u_j||^2 [n, n] from inner products; never below zero."""
    squares = np.diagonal(gram)
    # Cancellation: for nearly equal updates the difference of float64 products may come out slightly negative.
    return np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)


def trimmed(block: Block, cut: int) -> npt.NDArray[Any]:
    """Returns the mean of each row [columns] of a block [columns, n] without its `cut` smallest and `cut` largest
    values."""
    n = block.shape[1]
    if cut:
        # A partial sort is enough: the order within the middle does not change its mean.
        block.partition((cut, n - cut - 1), axis=1)
    return np.asarray(block[:, cut : n - cut].mean(axis=1, dtype=np.float64))

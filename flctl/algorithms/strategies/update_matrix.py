"""Clients' updates as the columns of a matrix that is never whole in memory, for strategies that read each of them.

An update is all its vectors laid end to end: a rule that looked at `delta` alone would leave the model's buffers to
whoever lies. Rows are in the order of the clients' ids, so that results do not depend on the order of arrival, bit
for bit. Values beyond float32's range, which no honest client sends, are brought back into it; products of float32
values stay finite in float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.algorithms.strategy import Strategy
from flctl.errors import IncompatibleError
from flctl.types import Arrays, ClientUpdate

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = [
    "Block",
    "Least",
    "Robust",
    "Vector",
    "Weighing",
    "by_column",
    "distances",
    "mix",
    "norms",
    "products",
    "trimmed",
    "weights",
]

Vector = npt.NDArray[np.float64]
Block = npt.NDArray[np.float32]

_ELEMENTS = 1 << 20
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Least:
    """How many updates a rule needs, and why, as a formula in its options."""

    updates: int
    formula: str


class Robust(Strategy):
    """A strategy that makes the next model from each client's update; a subclass gives `rule` and `least`."""

    def least(self) -> Least:
        """How many updates the rule needs."""
        return Least(1, "1")

    @abstractmethod
    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        """One value for each vector, from at least `least` updates in the order of their clients' ids."""

    def check(self, run: RunInfo) -> None:
        """Raises IncompatibleError where cohorts are too small for the rule, on average where their size is drawn."""
        if run.cohort_size < self.least().updates:
            raise self._too_few(f"a cohort is {run.cohort_size:g} clients")

    def combine(self, updates: Sequence[ClientUpdate]) -> Arrays:
        """Raises IncompatibleError where too few clients answered: the rule promises nothing for so few."""
        if len(updates) < self.least().updates:
            raise self._too_few(f"{len(updates)} arrived")
        return self.rule(sorted(updates, key=lambda update: update.client_id))

    def _too_few(self, found: str) -> IncompatibleError:
        least, options = self.least(), self.config.model_dump()
        chosen = ", ".join(f"{name} {value}" for name, value in options.items() if name in least.formula)
        because = f" ({least.formula}, with {chosen})" if chosen else ""
        return IncompatibleError(
            f"{self.name} needs at least {least.updates} updates{because}, and {found}",
            hint="Ask for more clients (--clients-per-round), or expect fewer malicious ones.",
        )


class Weighing(Robust):
    """A robust rule that is one number for each client: the result is sum_i c_i u_i."""

    @abstractmethod
    def weigh(self, rows: Sequence[ClientUpdate]) -> Vector:
        """c [n]."""

    def rule(self, rows: Sequence[ClientUpdate]) -> Arrays:
        return mix(rows, self.weigh(rows))


def blocks(rows: Sequence[ClientUpdate], name: str) -> Iterator[tuple[slice, Block]]:
    """The vector `name` of all updates, a few columns at a time: (which, values [columns, n]), each a fresh copy."""
    length, width = rows[0].arrays[name].size, max(1, _ELEMENTS // len(rows))
    for start in range(0, length, width):
        part = slice(start, min(start + width, length))
        block = np.empty((part.stop - part.start, len(rows)), np.float32)
        for position, row in enumerate(rows):
            block[:, position] = _in_range(row.arrays[name][part])
        yield part, block


def _in_range(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values if values.dtype in (np.float32, np.float16) else np.clip(values, -_LARGEST, _LARGEST)


def by_column(rows: Sequence[ClientUpdate], rule: Callable[[Block], npt.NDArray[Any]]) -> Arrays:
    """What `rule` makes of each coordinate's n values: from a block [columns, n], which it may change, [columns]."""
    result = {name: np.empty(vector.size, np.float32) for name, vector in rows[0].arrays.items()}
    for name, vector in result.items():
        for part, block in blocks(rows, name):
            vector[part] = rule(block)
    return result


def mix(rows: Sequence[ClientUpdate], coefficients: Vector) -> Arrays:
    """sum_i c_i u_i, added up in float64."""
    return by_column(rows, lambda block: block.astype(np.float64) @ coefficients)


def weights(rows: Sequence[ClientUpdate], weighted: bool) -> Vector:
    """The clients' shares [n], which sum to 1: by their weights, or all the same."""
    claimed = np.array([row.weight if weighted else 1.0 for row in rows])
    shares = claimed / claimed.max()  # finite whatever the claims
    return np.asarray(shares / shares.sum())


def norms(rows: Sequence[ClientUpdate]) -> Vector:
    """The L2 norms [n] of the updates."""
    squared = np.zeros(len(rows))
    for name in rows[0].arrays:
        for _, block in blocks(rows, name):
            squared += np.square(block, dtype=np.float64).sum(axis=0)
    return np.sqrt(squared)


def products(rows: Sequence[ClientUpdate]) -> Vector:
    """The inner products <u_i, u_j> [n, n] of the updates, in float64 (values up to 1e38 do not overflow)."""
    gram = np.zeros((len(rows), len(rows)))
    for name in rows[0].arrays:
        for _, block in blocks(rows, name):
            wide = block.astype(np.float64)
            gram += wide.T @ wide
    return gram


def distances(gram: Vector) -> Vector:
    """Squared distances ||u_i - u_j||^2 [n, n] from inner products; never below zero."""
    squares = np.diagonal(gram)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)


def trimmed(block: Block, cut: int) -> npt.NDArray[Any]:
    """The mean of each line [columns] of a block [columns, n] without its `cut` smallest and `cut` largest values."""
    n = block.shape[1]
    if cut:
        block.partition((cut, n - cut - 1), axis=1)
    return np.asarray(block[:, cut : n - cut].mean(axis=1, dtype=np.float64))

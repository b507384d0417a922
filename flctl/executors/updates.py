"""Updates of a chunk of clients, in the form in which the executor holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flctl import arrays
from flctl.types import Failure, FloatArray, IntArray, Trained
from flctl.wire.buffers import HEAP, Allocator

__all__ = ["Facts", "OneByOne", "Updates"]

Float64 = FloatArray
Vectors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Per client [K]: the mean training loss over the examples processed, the shard's rows (0 without a step), and the
    number of steps. `failures`: position -> the reason that the client has no update."""

    loss: Float64
    examples: IntArray
    steps: IntArray
    failures: dict[int, Failure]


class Updates(ABC):
    """The changes of K clients' models, laid out as `FlatModel.layout`: "params" and, for models with buffers,
    "buffers". Clients are in the order they were asked; failed ones count as zeros."""

    facts: Facts

    @abstractmethod
    def norms(self) -> Float64:
        """Returns the L2 norm [K] of each client's change, over all its vectors together."""

    @abstractmethod
    def sum(self, factors: Float64) -> Vectors:
        """Returns sum_k factors[k] * change_k, float32."""

    @abstractmethod
    def block(self, allocator: Allocator = HEAP) -> tuple[IntArray, Vectors]:
        """Returns (positions, rows): the changes as rows [K', L] without those of failed clients, and the client of
        each row. Rows may come in any order and be changed by the caller; `allocator` allocates them if they are built
        for this call."""

    @abstractmethod
    def results(self) -> list[Trained | None]:
        """Returns each client's own result; None if it failed. The vectors may be views of one block."""


class OneByOne(Updates):
    """Updates of clients trained one after the other, each with vectors of its own."""

    def __init__(self, trained: Sequence[Trained | Failure], layout: dict[str, int]) -> None:
        done = [result if isinstance(result, Trained) else None for result in trained]
        self._trained, self._layout = done, layout
        self.facts = Facts(
            np.array([result.loss if result else 0.0 for result in done]),
            np.array([result.examples if result else 0 for result in done], np.int64),
            np.array([result.steps if result else 0 for result in done], np.int64),
            {position: result for position, result in enumerate(trained) if isinstance(result, Failure)},
        )

    def norms(self) -> Float64:
        return np.array([arrays.norm(result.delta) if result else 0.0 for result in self._trained])

    def sum(self, factors: Float64) -> Vectors:
        total = arrays.zeros(self._layout)
        for factor, result in zip(factors.tolist(), self._trained, strict=True):
            if result:
                arrays.accumulate(total, result.delta, factor)
        return total

    def block(self, allocator: Allocator = HEAP) -> tuple[IntArray, Vectors]:
        done = [(position, result) for position, result in enumerate(self._trained) if result]
        rows = {name: [result.delta[name] for _, result in done] for name in self._layout}
        empty = {name: np.zeros((0, length), np.float32) for name, length in self._layout.items()}
        positions = np.array([position for position, _ in done], np.int64)
        return positions, {name: np.stack(vectors) for name, vectors in rows.items()} if done else empty

    def results(self) -> list[Trained | None]:
        return list(self._trained)

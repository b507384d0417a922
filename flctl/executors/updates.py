"""What a chunk of clients learned, in whichever form its executor holds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flctl import arrays
from flctl.types import Failure, Trained
from flctl.wire.buffers import HEAP, Room

__all__ = ["Facts", "OneByOne", "Updates"]

Float64 = npt.NDArray[np.float64]
Vectors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Per client [K]: the mean training loss over the examples processed, the shard's rows (0 where no step was
    made), and how many steps; `failures`: place -> why that client has no update."""

    loss: Float64
    examples: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    failures: dict[int, Failure]


class Updates(ABC):
    """The changes of K clients' models, laid out as `FlatModel.layout` says: "params" and, where it has any,
    "buffers". Clients are in the order they were asked; those that failed count as zeros."""

    facts: Facts

    @abstractmethod
    def norms(self) -> Float64:
        """The L2 norm [K] of each client's change, over all its vectors together."""

    @abstractmethod
    def sum(self, factors: Float64) -> Vectors:
        """sum_k factors[k] * change_k, float32."""

    @abstractmethod
    def block(self, room: Room = HEAP) -> tuple[npt.NDArray[np.int64], Vectors]:
        """(places, rows): the changes as rows [K', L] without a failed client's, and whose each row is. They may
        come in any order, are the caller's to change, and lie in the `room` where they are made for this."""

    @abstractmethod
    def each(self) -> list[Trained | None]:
        """Each client's own result; None where it failed. The vectors may be views of one block."""


class OneByOne(Updates):
    """Clients that were trained one after the other, each with vectors of its own."""

    def __init__(self, trained: Sequence[Trained | Failure], layout: dict[str, int]) -> None:
        done = [result if isinstance(result, Trained) else None for result in trained]
        self._trained, self._layout = done, layout
        self.facts = Facts(
            np.array([result.loss if result else 0.0 for result in done]),
            np.array([result.examples if result else 0 for result in done], np.int64),
            np.array([result.steps if result else 0 for result in done], np.int64),
            {place: result for place, result in enumerate(trained) if isinstance(result, Failure)},
        )

    def norms(self) -> Float64:
        return np.array([arrays.norm(result.delta) if result else 0.0 for result in self._trained])

    def sum(self, factors: Float64) -> Vectors:
        total = arrays.zeros(self._layout)
        for factor, result in zip(factors.tolist(), self._trained, strict=True):
            if result:
                arrays.accumulate(total, result.delta, factor)
        return total

    def block(self, room: Room = HEAP) -> tuple[npt.NDArray[np.int64], Vectors]:
        done = [(place, result) for place, result in enumerate(self._trained) if result]
        rows = {name: [result.delta[name] for _, result in done] for name in self._layout}
        empty = {name: np.zeros((0, length), np.float32) for name, length in self._layout.items()}
        places = np.array([place for place, _ in done], np.int64)
        return places, {name: np.stack(vectors) for name, vectors in rows.items()} if done else empty

    def each(self) -> list[Trained | None]:
        return list(self._trained)

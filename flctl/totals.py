"""The server's intake: vectors checked, counted and added up in the order they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flctl import arrays, wire
from flctl.errors import ProtocolError
from flctl.types import WEIGHT, Aggregate, Arrays, ClientId, ClientUpdate, Failure, Layout

__all__ = ["Each", "Intake", "Sum", "mean_loss"]


@dataclass(slots=True)
class Intake:
    """Opens clients' messages and keeps who failed; the server trusts no client's word on shape or finiteness."""

    layout: Layout
    failed: dict[ClientId, Failure] = field(default_factory=dict)

    def open(self, client_id: ClientId, message: bytes) -> Arrays | None:
        """The vector in a message; None, and the client noted as failed, when it cannot be used."""
        try:
            vector = wire.unpack(message, "vector").arrays
        except ProtocolError as error:
            self.failed[client_id] = Failure("protocol", error.message)
            return None
        failure = self._judge(vector)
        if failure is not None:
            self.failed[client_id] = failure
            return None
        return vector

    def _judge(self, vector: Arrays) -> Failure | None:
        found = arrays.layout_of(vector)
        if found != dict(self.layout):
            return Failure("layout", f"the reply has the vectors {dict(found)}, expected {dict(self.layout)}")
        if not arrays.is_finite(vector):
            return Failure("non-finite", "the reply has values that are NaN or infinite")
        if float(vector[WEIGHT][0]) < 0:
            return Failure("protocol", f"the reply has the weight {float(vector[WEIGHT][0])}, which is negative")
        return None


class Sum:
    """Adds premultiplied vectors with one accumulator, whatever the number of clients."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self._total: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]] | None = None
        self._count = 0

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Adds the vector of one client."""
        vector = self.intake.open(client_id, message)
        if vector is None:
            return
        self._count += 1
        if self._total is None:
            self._total = {name: np.array(array, _wide(array.dtype)) for name, array in vector.items()}
            return
        for name, array in vector.items():  # whatever dtype a client sends, no other client's numbers lose by it
            wide = np.result_type(self._total[name], array)
            self._total[name] = self._total[name].astype(wide, copy=False)
        arrays.accumulate(self._total, vector)

    def aggregate(self) -> Aggregate:
        """sum_k w_k a_k, sum_k w_k and the count; zeros when nobody answered."""
        total = self._total if self._total is not None else arrays.zeros(self.intake.layout)
        vectors = {name: array for name, array in total.items() if name != WEIGHT}
        return Aggregate(vectors, float(total[WEIGHT][0]), self._count)


def _wide(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The dtype to sum in: at least float32 for fractions, integers as they are."""
    return np.result_type(dtype, np.float32) if dtype.kind == "f" else dtype


class Each:
    """Keeps each client's update, for parts that read them; memory grows with the cohort."""

    def __init__(
        self,
        intake: Intake,
        arrive: Callable[[ClientUpdate], ClientUpdate],
        combine: Callable[[Sequence[ClientUpdate]], Arrays],
    ) -> None:
        self.intake = intake
        self._arrive = arrive
        self._combine = combine
        self._updates: list[ClientUpdate] = []

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Keeps the update of one client, as the transforms see it on arrival."""
        vector = self.intake.open(client_id, message)
        if vector is not None:
            plain = {name: array for name, array in vector.items() if name != WEIGHT}
            self._updates.append(self._arrive(ClientUpdate(client_id, plain, float(vector[WEIGHT][0]))))

    def aggregate(self) -> Aggregate:
        """What `combine` makes of the updates, with weight 1; the weighted mean of vectors that it leaves out."""
        updates = [update for update in self._updates if update.weight > 0]
        if not updates:
            vectors = {name: n for name, n in self.intake.layout.items() if name != WEIGHT}
            return Aggregate(arrays.zeros(vectors), 0.0, 0)
        combined = self._combine(updates)
        rest = [name for name in updates[0].arrays if name not in combined]
        means = {name: _mean(updates, name) for name in rest}
        return Aggregate({**combined, **means}, 1.0, len(updates))


def _mean(updates: Sequence[ClientUpdate], name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    total = sum(update.weight for update in updates)
    mean = arrays.zeros({name: updates[0].arrays[name].size})
    for update in updates:
        arrays.accumulate(mean, {name: update.arrays[name]}, update.weight / total)
    return mean[name]


def mean_loss(metrics: Mapping[ClientId, Mapping[str, float]]) -> float | None:
    """The clients' training loss, weighted by examples; None when none was reported."""
    examples = sum(reported["examples"] for reported in metrics.values())
    if not examples:
        return None
    return sum(reported["loss"] * reported["examples"] for reported in metrics.values()) / examples

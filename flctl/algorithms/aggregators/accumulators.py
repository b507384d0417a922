"""The server's accumulators: messages are checked, decoded and added up in the order of arrival."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flctl import arrays, wire
from flctl.errors import FlctlError, ProtocolError
from flctl.types import WEIGHT, Aggregate, Arrays, ClientId, ClientUpdate, Failure, Gathered, Layout
from flctl.wire.replies import check_words, failure_of, one_line

__all__ = ["SumAccumulator", "UpdateCollector", "UpdateIntake"]

Vectors = dict[str, np.ndarray[Any, np.dtype[Any]]]
Arrive = Callable[[ClientUpdate], ClientUpdate]
"""Decodes a client's update on the server, before it is added up or inspected."""


@dataclass(slots=True)
class UpdateIntake:
    """Opens clients' messages and records the clients that failed.

    The server trusts no client: shapes and finiteness are checked, and only a client's first message counts. `layout`
    is that of a message, the weight included. `arrive` decodes an update to the layout `arrived`; without `arrive`,
    updates are used as they are. `most_weight` gives a client's largest weight; without it, any weight is used.
    """

    layout: Layout
    failed: dict[ClientId, Failure] = field(default_factory=dict)
    heard: set[ClientId] = field(default_factory=set)
    arrive: Arrive | None = None
    arrived: Layout | None = None
    most_weight: Callable[[ClientId], float] | None = None

    @property
    def vectors(self) -> Layout:
        """Layout of the accumulated vectors, without the weight."""
        return self.arrived or {name: length for name, length in self.layout.items() if name != WEIGHT}

    def open(self, client_id: ClientId, message: bytes) -> ClientUpdate | None:
        """Returns the update in a message. Returns None for a client that was heard before, and for a message that
        cannot be used, whose client is recorded as failed."""
        if client_id in self.heard:
            return None
        self.heard.add(client_id)
        try:
            vectors = dict(wire.unpack(message, "vector").arrays)
        except ProtocolError as error:
            self.failed[client_id] = Failure("protocol", one_line(error.message))
            return None
        failure = self._judge(client_id, vectors)
        if failure is not None:
            self.failed[client_id] = failure
            return None
        weight = float(vectors.pop(WEIGHT)[0])
        update = ClientUpdate(client_id, vectors, weight)
        return update if self.arrive is None else self.take(update)

    def rows(self, gathered: Gathered, ids: Sequence[ClientId]) -> Iterator[ClientUpdate]:
        """Yields the usable updates of a chunk, one for each client; `ids` are the ids of `gathered.numbers`."""
        usable = self.arrive is None and arrays.is_finite(gathered.vectors)  # all at once, as nothing is decoded
        for row, (client_id, weight) in enumerate(zip(ids, gathered.weights.tolist(), strict=True)):
            update = ClientUpdate(client_id, {name: rows[row] for name, rows in gathered.vectors.items()}, weight)
            taken = update if usable else self.take(update)
            if taken is not None:
                yield taken

    def take(self, update: ClientUpdate) -> ClientUpdate | None:
        """Decodes and checks one update. Returns None, and records the client as failed, if it cannot be decoded or is
        not finite."""
        try:
            update = self.arrive(update) if self.arrive is not None else update
        except Exception as error:  # a client that sends an impossible code must not end the run
            self.failed[update.client_id] = Failure("protocol", failure_of(error).message)
            return None
        if self.arrived is not None and arrays.layout_of(update.arrays) != dict(self.arrived):
            found = dict(arrays.layout_of(update.arrays))
            self.failed[update.client_id] = Failure("layout", f"decoded to {found}, expected {dict(self.arrived)}")
            return None
        if not arrays.is_finite(update.arrays):
            self.failed[update.client_id] = Failure("non-finite", "decoded to values that are NaN or infinite")
            return None
        return update

    def _judge(self, client_id: ClientId, vector: Arrays) -> Failure | None:
        found = arrays.layout_of(vector)
        if found != dict(self.layout):
            shown = one_line(str(dict(found)))
            return Failure("layout", f"the reply has the vectors {shown}, expected {dict(self.layout)}")
        if not arrays.is_finite(vector):
            return Failure("non-finite", "the reply has values that are NaN or infinite")
        weight = float(vector[WEIGHT][0])
        if weight < 0:
            return Failure("protocol", f"the reply has the weight {weight}, which is negative")
        most = math.inf if self.most_weight is None else self.most_weight(client_id)
        if weight > most:
            return Failure("protocol", f"the reply has the weight {weight:g}; the rows that it declared allow {most:g}")
        return None


class SumAccumulator:
    """Adds up vectors in one accumulator; memory does not grow with the number of clients.

    `multiplied` is True if clients premultiply vectors by their weight; otherwise the server does. The vectors of a
    chunk are added up first, and the chunks' sums after that, on the server as in a worker. So the sum is the same to
    the bit wherever a chunk is added up. `chunk_of` maps clients to chunks; without it, each client is a chunk of its
    own.
    """

    def __init__(
        self, intake: UpdateIntake, chunk_of: Mapping[ClientId, int] | None = None, *, multiplied: bool = True
    ) -> None:
        self.intake = intake
        self._multiplied = multiplied
        self._chunk_of = chunk_of or {}
        self._chunk: int | None = None
        self._part: Arrays | None = None
        self._mine = False
        """True if `_part` may be changed in place. A chunk's first vectors are still views of its client's message."""
        self._total: Vectors | None = None
        self._count = 0

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Adds the vectors of one client's message."""
        update = self.intake.open(client_id, message)
        if update is not None:
            self.take(update)

    def take(self, update: ClientUpdate) -> None:
        """Adds one client's update, already opened."""
        vectors = update.arrays if self._multiplied else self._weighed(update)
        if vectors is None:
            return
        chunk = self._chunk_of.get(update.client_id)
        if chunk is None or chunk != self._chunk:
            self._close()
        self._chunk = chunk
        self._count += 1
        self._keep({**vectors, WEIGHT: np.array([update.weight])})

    def merge(self, gathered: Gathered, ids: Sequence[ClientId]) -> None:
        """Adds the sum of a chunk, or the updates of its clients."""
        if any(vector.ndim == 2 for vector in gathered.vectors.values()):
            for update in self.intake.rows(gathered, ids):
                self.take(update)
        elif gathered.numbers.size:
            self._count += len(gathered.numbers)
            self._total = _added(self._total, gathered.vectors)

    def aggregate(self) -> Aggregate:
        """Returns sum_k w_k a_k, sum_k w_k and the count; zeros if no client answered."""
        self._close()
        total = self._total if self._total is not None else arrays.zeros({**self.intake.vectors, WEIGHT: 1})
        vectors = {name: array for name, array in total.items() if name != WEIGHT}
        return Aggregate(vectors, float(total[WEIGHT][0]), self._count)

    def _weighed(self, update: ClientUpdate) -> Arrays | None:
        """Multiplies an update by its weight. Returns None, and records the client as failed, if the product is not
        finite."""
        try:
            check_words(update)
        except FlctlError as error:
            self.intake.failed[update.client_id] = Failure("protocol", error.message)
            return None
        vectors = arrays.weigh(update.arrays, update.weight)
        if arrays.is_finite(vectors):
            return vectors
        said = f"times its weight {update.weight:g}, the update has values that are infinite"
        self.intake.failed[update.client_id] = Failure("non-finite", said)
        return None

    def _keep(self, vector: Arrays) -> None:
        """Adds vectors to the chunk's partial sum. Copies only when a second client follows: a large update is often
        alone in its chunk, and then one accumulator is all the memory needed."""
        if self._part is None:
            self._part, self._mine = vector, False
            return
        part = _added(None, self._part) if not self._mine else dict(self._part)
        self._part, self._mine = _added(part, vector), True

    def _close(self) -> None:
        if self._part is not None:
            self._total = _added(self._total, self._part)
        self._part = None


def _added(total: Vectors | None, vector: Arrays) -> Vectors:
    """Adds vectors to the total in place; without a total, copies them into a new one."""
    if total is None:
        return {name: np.array(array, _wide(array.dtype)) for name, array in vector.items()}
    for name, array in vector.items():  # a client that sends float16 must not cost the others precision
        wide = np.result_type(total[name], array)
        total[name] = total[name].astype(wide, copy=False)
    arrays.accumulate(total, vector)
    return total


def _wide(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Returns the dtype to sum in: at least float32 for floating point, integers unchanged."""
    return np.result_type(dtype, np.float32) if dtype.kind == "f" else dtype


class UpdateCollector:
    """Keeps each client's update, for components that read single updates. Memory grows with the cohort."""

    def __init__(
        self, intake: UpdateIntake, order: Sequence[ClientId], combine: Callable[[Sequence[ClientUpdate]], Arrays]
    ) -> None:
        self.intake = intake
        self._order = order
        self._combine = combine
        self._updates: dict[ClientId, ClientUpdate] = {}

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Keeps the update in one client's message."""
        update = self.intake.open(client_id, message)
        if update is not None:
            self.take(update)

    def take(self, update: ClientUpdate) -> None:
        """Keeps one client's update, already opened."""
        self._updates[update.client_id] = update

    def merge(self, gathered: Gathered, ids: Sequence[ClientId]) -> None:
        """Keeps the updates of a chunk; `ids` are the ids of `gathered.numbers`."""
        for update in self.intake.rows(gathered, ids):
            self.take(update)

    def aggregate(self) -> Aggregate:
        """Combines the updates, in cohort order, with weight 1. Vectors that `combine` leaves out are averaged by
        weight."""
        kept = (self._updates[client_id] for client_id in self._order if client_id in self._updates)
        updates = [update for update in kept if update.weight > 0]
        if not updates:
            return Aggregate(arrays.zeros(self.intake.vectors), 0.0, 0)
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

"""The client side of a run: work in, replies out, for one client or for a chunk of them; every engine uses it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.pipeline import check_memory
from flctl.algorithms.transform import ClientContext
from flctl.client.local_training import LocalTraining
from flctl.errors import DivergenceError, FlctlError
from flctl.executors.sequential import single_thread
from flctl.executors.updates import Updates
from flctl.run.run import Run
from flctl.timing import PhaseTimer
from flctl.types import (
    WEIGHT,
    Arrays,
    ClientId,
    ClientUpdate,
    Failure,
    FloatArray,
    Gathered,
    IntArray,
    Reply,
    Request,
    Trained,
    Work,
)
from flctl.wire.buffers import HEAP, Allocator
from flctl.wire.messages import vector_size
from flctl.wire.replies import (
    check_update,
    failed_alone,
    failure_of,
    guarded,
    is_ours,
    merged,
    nothing,
    unguarded,
    weighted,
)

__all__ = ["ClientRuntime"]

Answer = tuple[Reply | Failure, bytes]
"""A client's reply, and the aggregator's memory for the round's next phase."""
Said = tuple[ClientUpdate, Mapping[str, float]]
"""What a client has to say, and its metrics."""
_SENT = {"params": "delta"}
"""What a change of the model is called in an update, where it has another name."""
Guard = Callable[[Callable[[], Any]], Any]


class ClientRuntime:
    """The model, and each component's client half, ready to answer for any clients.

    Nothing is kept from one chunk of clients to the next but buffers that each overwrites.
    """

    def __init__(self, run: Run) -> None:
        single_thread()
        self.run = run
        self.local = LocalTraining(run)

    @property
    def clock(self) -> PhaseTimer:
        """Where the time of the chunk goes."""
        return self.local.clock

    def gather(self, numbers: IntArray, work: Work, each: bool, room: Allocator = HEAP) -> Gathered:
        """What a chunk of clients replies, together, rows in the `room`. A client that fails is told in `failed`.
        Raises MemoryError, or torch's error, where there is no memory for so many at once."""
        self.local.clock = PhaseTimer()
        try:
            with self.clock.phase("transform"):
                parts = [self._gather(block, work, each, room) for block in self._blocks(numbers)]
            return dataclasses.replace(merged(parts, each, room), seconds=self.clock.seconds)
        except (Exception, SystemExit) as error:
            if is_ours(error):
                raise
            if len(numbers) == 1:
                return failed_alone(int(numbers[0]), failure_of(error), work, each)
        # The one that is to blame is found by asking each alone.
        return merged([self.gather(numbers[place : place + 1], work, each) for place in range(len(numbers))], each)

    def answers(self, ids: Sequence[ClientId], requests: Sequence[Request], memories: Sequence[bytes]) -> list[Answer]:
        """Each client's answer, a `Failure` for any exception; those with work train together, and have the same."""
        work = requests[0].work
        said: Sequence[Said | Failure | None] = [None] * len(ids)
        if work is not None:
            said = self._said(self._numbers(ids), work)
        return [self._answer(*one) for one in zip(ids, requests, memories, said, strict=True)]

    def answer(self, client_id: ClientId, request: Request, memory: bytes) -> Answer:
        """One client's answer; a `Failure` for any exception."""
        return self.answers([client_id], [request], [memory])[0]

    def reply(self, client_id: ClientId, request: Request, memory: bytes) -> tuple[Reply, bytes]:
        """As `answer`, but raises what the client raises."""
        said: Any = [None]
        if request.work is not None:
            said = self._listed(self._numbers([client_id]), request.work, guard=unguarded)
        return self._reply(client_id, request, memory, said[0])

    def _blocks(self, numbers: IntArray) -> list[IntArray]:
        """The chunk in parts that fit the cache, or the memory: what is added up is the same whoever does it."""
        bounds, most = self.run.partition.bounds[numbers], self.local.at_once
        blocks = (numbers[places] for places in self.run.execution.blocks(bounds[:, 1] - bounds[:, 0]))
        return [block[start : start + most] for block in blocks for start in range(0, len(block), most)]

    def _gather(self, numbers: IntArray, work: Work, each: bool, room: Allocator) -> Gathered:
        if self._looks_away:
            return self._unread(numbers, self.local.together(numbers, work), work, each, room)
        said = self._listed(numbers, work, guarded)
        failed = {int(n): one for n, one in zip(numbers, said, strict=True) if isinstance(one, Failure)}
        done = [one for one in said if not isinstance(one, Failure)]
        updates = [update for update, _ in done]
        if not done:
            vectors = nothing(work, each)
        else:
            vectors = _rows(updates) if each else self._total(updates)
        told = {
            name: np.array([0.0 if self.run.withholds_metrics else metrics.get(name, math.nan) for _, metrics in done])
            for name in ("loss", "examples", "steps")
        }
        sent = _size([update.arrays for update in updates], self.run.multiplies)
        answered = np.array([n for n, one in zip(numbers, said, strict=True) if not isinstance(one, Failure)], np.int64)
        weights = np.array([update.weight for update in updates], np.float64)
        return Gathered(vectors, answered, weights, failed=failed, seconds=self.clock.seconds, bytes_up=sent, **told)

    @property
    def _looks_away(self) -> bool:
        """Whether no part of the client looks at an update by itself: all is known from the changes and their norms."""
        strategy, transforms = self.run.strategy, self.run.transforms.values()
        told = strategy.reports or strategy.staged or self.run.memory_layout
        plain = not (told or self.local.executor.one_by_one)
        return plain and all(transform.scales for transform in transforms)

    def _unread(self, numbers: IntArray, updates: Updates, work: Work, each: bool, room: Allocator) -> Gathered:
        """The reply of a chunk whose updates nobody looks at by themselves here: their sum, or their rows."""
        facts, factors = self.local.counted(updates.facts), self._factors(updates, work)
        examples = facts.examples.astype(np.float64)
        weights = self._weighed(examples)
        if each:
            done, rows = updates.block(room)
            if self.run.transforms:
                for block in rows.values():
                    np.multiply(block, factors[done, None].astype(np.float32), out=block)
            vectors: dict[str, Any] = {_SENT.get(name, name): block for name, block in rows.items()}
            sent = len(done) * vector_size(vectors)
        else:
            done = np.array([place for place in range(len(numbers)) if place not in facts.failures], np.int64)
            with self.clock.phase("train"):  # the sum is training's last product where models are never built
                moved = [place for place in done.tolist() if place not in updates.facts.failures]
                total = updates.sum(np.where(np.isin(np.arange(len(numbers)), moved), weights * factors, 0.0))
            vectors = {_SENT.get(name, name): vector for name, vector in total.items()}
            sent = len(done) * vector_size(vectors)
            vectors[WEIGHT] = np.array([weights[done].sum()])
        return Gathered(
            vectors=vectors,
            numbers=numbers[done],
            weights=weights[done],
            loss=facts.loss[done],
            examples=examples[done],
            steps=facts.steps[done].astype(np.float64),
            failed={int(numbers[place]): failure for place, failure in facts.failures.items()},
            seconds=self.clock.seconds,
            bytes_up=sent,
        )

    def _weighed(self, weights: FloatArray) -> FloatArray:
        """What updates of these weights [K] count with."""
        for transform in self.run.transforms.values():
            weights = transform.weigh(weights)
        return weights

    def _factors(self, updates: Updates, work: Work) -> FloatArray:
        """What the transforms multiply each change by [K]."""
        factors = np.ones(len(updates.facts.loss))
        norms = updates.norms() if self.run.transforms else factors
        for name, transform in self.run.transforms.items():
            factors *= transform.factors(norms * factors, work.transforms.get(name, {}))
        return factors

    def _total(self, updates: Sequence[ClientUpdate]) -> Arrays:
        first, *rest = (weighted(update, multiplied=True) for update in updates)
        total = {name: np.array(array) for name, array in first.items()}
        for vector in rest:
            arrays.accumulate(total, vector)
        return total

    def _said(self, numbers: IntArray, work: Work) -> list[Said | Failure]:
        """What each client says; where a chunk cannot train together, each alone."""
        said = guarded(lambda: self._listed(numbers, work, guarded))
        if not isinstance(said, Failure):
            return said
        if len(numbers) == 1:
            return [said]
        return [self._said(numbers[place : place + 1], work)[0] for place in range(len(numbers))]

    def _listed(self, numbers: IntArray, work: Work, guard: Guard) -> list[Said | Failure]:
        """What strategy and transforms make of each client's change."""
        memory = self.local.memory(numbers, work)
        ids = [self.run.partition.client_ids[int(number)] for number in numbers]
        said: list[Said | Failure] = []
        kept: dict[int, Arrays] = {}
        for place, trained in enumerate(self.local.each(numbers, work, memory)):
            mine = {name: rows[place] for name, rows in memory.items()}
            one = guard(partial(self._finite, ids[place], trained, mine, work))
            if not isinstance(one, Failure):
                update, kept[int(numbers[place])], metrics = one
                one = update, metrics
            said.append(one)
        self.local.remember(kept, work.round)
        return said

    def _finite(
        self, client_id: ClientId, trained: Trained | Failure, memory: Arrays, work: Work
    ) -> tuple[ClientUpdate, Arrays, Mapping[str, float]]:
        """As `_prepared`; zeros in place of an update that is not finite, if a transform bounds clients."""
        try:
            return self._prepared(client_id, trained, memory, work)
        except DivergenceError:
            if isinstance(trained, Failure) or not self.run.bounds_clients:
                raise
            unmoved = dataclasses.replace(self.local.unmoved, start=trained.start, personal=trained.personal)
            return self._prepared(client_id, unmoved, memory, work)

    def _prepared(
        self, client_id: ClientId, trained: Trained | Failure, memory: Arrays, work: Work
    ) -> tuple[ClientUpdate, Arrays, Mapping[str, float]]:
        """What the client says and remembers, checked, and its metrics."""
        if isinstance(trained, Failure):
            raise DivergenceError(trained.message)
        strategys = self.local.recall.strategys
        vectors, weight, remember = self.run.strategy.report(trained, work, strategys(memory))
        check_memory(f"strategy '{self.run.strategy.name}'", remember, strategys(self.run.memory_layout))
        update, kept = self.run.pipeline.send(ClientUpdate(client_id, vectors, weight), work, memory)
        check_update(update, work.layout)
        remember = {**remember, **kept, **self.local.recall.private(trained)}
        metrics = {"loss": trained.loss, "examples": float(trained.examples), "steps": float(trained.steps)}
        return update, remember, {name: value for name, value in metrics.items() if not math.isnan(value)}

    def _answer(self, client_id: ClientId, request: Request, memory: bytes, said: Said | Failure | None) -> Answer:
        if isinstance(said, Failure):
            return said, b""
        answer: Answer | Failure = guarded(partial(self._reply, client_id, request, memory, said))
        return (answer, b"") if isinstance(answer, Failure) else answer

    def _reply(self, client_id: ClientId, request: Request, memory: bytes, said: Said | None) -> tuple[Reply, bytes]:
        vector = None if said is None else weighted(said[0], self.run.multiplies)
        names = ("round", request.round, "client", client_id, "aggregator")
        ctx = ClientContext(request.round, client_id, {}, seeds.rng(self.run.config.seed, *names), work=request.work)
        memory, message = self.run.aggregator.client(memory, request.message or b"", vector, ctx)
        given = [type(part).__name__ for part in (memory, message)]
        if given != ["bytes", "bytes"]:
            name = self.run.aggregator.name
            raise FlctlError(f"aggregator '{name}' gave {' and '.join(given)}, expected memory and reply as bytes")
        return Reply(message, {} if said is None or self.run.withholds_metrics else said[1]), memory

    def _numbers(self, ids: Sequence[ClientId]) -> IntArray:
        return np.array([self.run.partition.index(client_id) for client_id in ids], np.int64)


def _size(vectors: Sequence[Arrays], weighed: bool) -> int:
    """How many bytes the messages with these vectors have together, which are laid out alike."""
    kinds: dict[tuple[Any, ...], int] = {}
    sizes = 0
    for each in vectors:
        kind = tuple(vector.dtype for vector in each.values())
        if kind not in kinds:
            kinds[kind] = vector_size(each, weighed)
        sizes += kinds[kind]
    return sizes


def _rows(updates: Sequence[ClientUpdate]) -> Arrays:
    """One row for each update, [K, L]; no copy where the updates are the rows of one block already."""
    return {name: _block([update.arrays[name] for update in updates]) for name in updates[0].arrays}


def _block(rows: Sequence[Any]) -> Any:
    base = rows[0].base
    whole = isinstance(base, np.ndarray) and base.shape == (len(rows), *rows[0].shape) and base.flags.c_contiguous
    if whole and all(row.ctypes.data == base[place].ctypes.data for place, row in enumerate(rows)):
        return base
    return np.stack(rows)

"""One reply for a chunk of clients: the sum of their updates, or one row for each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flctl import arrays
from flctl.client.local_training import LocalTraining
from flctl.client.prepared_updates import UpdatePreparation
from flctl.executors.updates import Updates
from flctl.run.run import Run
from flctl.timing import PhaseTimer
from flctl.types import WEIGHT, Arrays, ClientUpdate, Failure, FloatArray, Gathered, IntArray, Work
from flctl.wire.buffers import HEAP, Allocator
from flctl.wire.messages import vector_size
from flctl.wire.replies import failed_chunk, failure_of, guarded, is_system_error, merged, no_updates, weighted

__all__ = ["ChunkReplies"]

_SENT = {"params": "delta"}
"""Model vectors whose change has another name in an update."""


@dataclass(frozen=True, slots=True)
class ChunkReplies:
    """Trains chunks of clients and replies for each as a whole.

    A chunk is trained in blocks that fit the cache. `keep_individual` asks for each client's vectors instead of the
    sum; the allocator supplies the memory that they are written to.
    """

    run: Run
    local: LocalTraining
    preparation: UpdatePreparation

    def reply(
        self, client_indices: IntArray, work: Work, *, keep_individual: bool, allocator: Allocator = HEAP
    ) -> Gathered:
        """Returns the chunk's reply, with clients that failed in `failed`.

        Raises MemoryError, or torch's error, if memory does not suffice for that many clients at once.
        """
        # A fresh timer for each reply: `merged` adds up the seconds of replies that are joined.
        self.local.clock = PhaseTimer()
        try:
            with self.local.clock.phase("transform"):
                parts = [
                    self._block_reply(block, work, keep_individual=keep_individual, allocator=allocator)
                    for block in self._blocks(client_indices)
                ]
            joined = merged(parts, keep_individual=keep_individual, allocator=allocator)
            return dataclasses.replace(joined, seconds=self.local.clock.seconds)
        except (Exception, SystemExit) as error:
            if is_system_error(error):
                raise
            if len(client_indices) == 1:
                return failed_chunk(int(client_indices[0]), failure_of(error), work, keep_individual=keep_individual)
        # An exception of a whole block does not name a client: each client trains alone to find the one at fault.
        alone = [client_indices[k : k + 1] for k in range(len(client_indices))]
        replies = [self.reply(one, work, keep_individual=keep_individual) for one in alone]
        return merged(replies, keep_individual=keep_individual)

    def _blocks(self, client_indices: IntArray) -> list[IntArray]:
        """Returns the chunk in blocks that fit the cache, or the memory. They depend on the clients alone, so that sums
        are made in the same order in every process."""
        sizes, most = self.run.partition.train_sizes(client_indices), self.local.at_once
        blocks = (client_indices[positions] for positions in self.run.execution.blocks(sizes))
        return [block[start : start + most] for block in blocks for start in range(0, len(block), most)]

    def _block_reply(
        self, client_indices: IntArray, work: Work, *, keep_individual: bool, allocator: Allocator
    ) -> Gathered:
        if self._reads_no_update:
            updates = self.local.train_plain(client_indices, work)
            if keep_individual:
                return self._rows_reply(client_indices, updates, work, allocator)
            return self._sum_reply(client_indices, updates, work)
        return self._prepared_reply(client_indices, work, keep_individual=keep_individual)

    @property
    def _reads_no_update(self) -> bool:
        """True if no client half reads single updates: weights, losses and norms suffice to form the chunk's sum."""
        strategy, transforms = self.run.strategy, self.run.transforms.values()
        reads = strategy.reports or strategy.staged or self.run.memory_layout
        plain = not (reads or self.local.executor.one_by_one)
        return plain and all(transform.scales for transform in transforms)

    def _prepared_reply(self, client_indices: IntArray, work: Work, *, keep_individual: bool) -> Gathered:
        """Returns the reply of clients whose updates are prepared one by one."""
        found = self.preparation.prepare(client_indices, work, guarded)
        failed = {int(k): one for k, one in zip(client_indices, found, strict=True) if isinstance(one, Failure)}
        done = [one for one in found if not isinstance(one, Failure)]
        updates = [prepared.update for prepared in done]
        vectors: Arrays = no_updates(work, keep_individual=keep_individual)
        if updates:
            vectors = _rows(updates) if keep_individual else _premultiplied_sum(updates)
        hidden = self.run.withholds_metrics
        metrics = {
            name: np.array([0.0 if hidden else prepared.metrics.get(name, math.nan) for prepared in done])
            for name in ("loss", "examples", "steps")
        }
        return Gathered(
            vectors=vectors,
            numbers=np.array([int(k) for k in client_indices if int(k) not in failed], np.int64),
            weights=np.array([update.weight for update in updates], np.float64),
            failed=failed,
            seconds=self.local.clock.seconds,
            bytes_up=_size([update.arrays for update in updates], weighed=self.run.multiplies),
            **metrics,
        )

    def _rows_reply(self, client_indices: IntArray, updates: Updates, work: Work, allocator: Allocator) -> Gathered:
        """Returns each client's vectors, one row each, scaled by the transforms."""
        factors = self._factors(updates, work)
        done, rows = updates.block(allocator)
        if self.run.transforms:
            for block in rows.values():
                # In place: the block lies in the allocator's memory already.
                np.multiply(block, factors[done, None].astype(np.float32), out=block)
        vectors: dict[str, Any] = {_SENT.get(name, name): block for name, block in rows.items()}
        return self._gathered(client_indices, updates, vectors, done, len(done) * vector_size(vectors))

    def _sum_reply(self, client_indices: IntArray, updates: Updates, work: Work) -> Gathered:
        """Returns the sum of the clients' vectors times factor and weight, without building single updates."""
        facts, factors = self.local.reported(updates.facts), self._factors(updates, work)
        count = len(client_indices)
        weights = self._weights(facts.examples.astype(np.float64))
        done = np.array([k for k in range(count) if k not in facts.failures], np.int64)
        with self.local.clock.phase("train"):  # some executors train in this product and never build single models
            moved = [k for k in done.tolist() if k not in updates.facts.failures]
            total = updates.sum(np.where(np.isin(np.arange(count), moved), weights * factors, 0.0))
        vectors: dict[str, Any] = {_SENT.get(name, name): vector for name, vector in total.items()}
        sent = len(done) * vector_size(vectors)
        vectors[WEIGHT] = np.array([weights[done].sum()])
        return self._gathered(client_indices, updates, vectors, done, sent)

    def _gathered(
        self, client_indices: IntArray, updates: Updates, vectors: Arrays, done: IntArray, bytes_up: int
    ) -> Gathered:
        facts = self.local.reported(updates.facts)
        examples = facts.examples.astype(np.float64)
        return Gathered(
            vectors=vectors,
            numbers=client_indices[done],
            weights=self._weights(examples)[done],
            loss=facts.loss[done],
            examples=examples[done],
            steps=facts.steps[done].astype(np.float64),
            failed={int(client_indices[k]): failure for k, failure in facts.failures.items()},
            seconds=self.local.clock.seconds,
            bytes_up=bytes_up,
        )

    def _weights(self, examples: FloatArray) -> FloatArray:
        """Returns the weights [K] of updates after the transforms, from the clients' numbers of examples [K]."""
        weights = examples
        for transform in self.run.transforms.values():
            weights = transform.weigh(weights)
        return weights

    def _factors(self, updates: Updates, work: Work) -> FloatArray:
        """Returns the product [K] of the factors by which the transforms scale each update."""
        factors = np.ones(len(updates.facts.loss))
        norms = updates.norms() if self.run.transforms else factors
        for name, transform in self.run.transforms.items():
            factors *= transform.factors(norms * factors, work.transforms.get(name, {}))
        return factors


def _premultiplied_sum(updates: Sequence[ClientUpdate]) -> Arrays:
    first, *rest = (weighted(update, multiplied=True) for update in updates)
    total = {name: np.array(array) for name, array in first.items()}
    for vector in rest:
        arrays.accumulate(total, vector)
    return total


def _size(vectors: Sequence[Arrays], *, weighed: bool) -> int:
    """Returns the size in bytes of all messages with these vectors; vectors of the same dtypes have the same size."""
    kinds: dict[tuple[Any, ...], int] = {}
    sizes = 0
    for one in vectors:
        kind = tuple(vector.dtype for vector in one.values())
        if kind not in kinds:
            kinds[kind] = vector_size(one, weighed=weighed)
        sizes += kinds[kind]
    return sizes


def _rows(updates: Sequence[ClientUpdate]) -> Arrays:
    """Returns one row for each update, [K, L]; without a copy if the updates already are the rows of one block."""
    return {name: _block([update.arrays[name] for update in updates]) for name in updates[0].arrays}


def _block(rows: Sequence[Any]) -> Any:
    base = rows[0].base
    whole = isinstance(base, np.ndarray) and base.shape == (len(rows), *rows[0].shape) and base.flags.c_contiguous
    if whole and all(row.ctypes.data == base[k].ctypes.data for k, row in enumerate(rows)):
        return base
    return np.stack(rows)

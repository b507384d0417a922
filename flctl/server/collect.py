"""Replies of a round's clients: put in order, requested again if an engine lost them, and counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from flctl.algorithms.aggregators.accumulators import UpdateIntake
from flctl.engines.engine import Engine, Lost
from flctl.errors import FlctlError, ProtocolError, RoundLostError, counted
from flctl.run.run import Run
from flctl.timing import PhaseTimer
from flctl.types import ClientId, Failure, Gathered, IntArray, Reply, RoundPlan
from flctl.wire.replies import failed_chunk, merged

__all__ = [
    "RoundTraffic",
    "absences",
    "chunk_replies",
    "disclosures",
    "in_order",
    "refusals",
    "timed_wait",
    "with_refusals",
]

Item = TypeVar("Item")


@dataclass(slots=True)
class RoundTraffic:
    """Counts one round's bytes, metrics and failures; `notes` are sentences about problems that were solved."""

    intake: UpdateIntake
    bytes_up: int = 0
    bytes_down: int = 0
    examples: float = 0.0
    loss: float = 0.0
    metrics: dict[ClientId, Mapping[str, float]] = field(default_factory=dict)
    untrained: set[ClientId] = field(default_factory=set)
    work: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, loss: float, examples: float) -> None:
        """Counts the mean training loss of a client, or of a chunk, over `examples` examples."""
        self.examples += examples
        self.loss += loss * examples

    @property
    def mean_loss(self) -> float | None:
        """Mean training loss; None if no client measured it."""
        return None if not self.examples or math.isnan(self.loss) else self.loss / self.examples

    def take(self, gathered: Gathered) -> None:
        """Counts what a chunk replied."""
        examples = float(gathered.examples.sum())
        loss = np.where(gathered.examples > 0, gathered.loss, 0.0)  # a client without a step has no loss
        self.count(float(loss @ gathered.examples) / max(examples, 1.0), examples)
        self.bytes_up += gathered.bytes_up
        for name, seconds in gathered.seconds.items():
            self.work[name] = self.work.get(name, 0.0) + seconds


@dataclass(frozen=True, slots=True)
class _ChunkRequests:
    """One round's requests to the engine, by chunk."""

    engine: Engine
    plan: RoundPlan
    keep_individual: bool
    deadline: float | None
    traffic: RoundTraffic

    def gather(self, chunks: Sequence[IntArray]) -> Iterator[tuple[int, Gathered | Lost]]:
        return self.engine.gather(self.plan.work, chunks, self.keep_individual, self.deadline)

    def recovered(self, client_indices: IntArray, answer: Gathered | Lost) -> Gathered:
        """Returns a chunk's reply. A lost chunk is requested again in halves, which need less memory, down to one
        client, which then counts as failed."""
        if isinstance(answer, Gathered):
            return answer
        if len(client_indices) == 1:
            return failed_chunk(
                int(client_indices[0]), answer.failure, self.plan.work, keep_individual=self.keep_individual
            )
        self.traffic.notes.append(
            f"{counted(len(client_indices), 'client')} asked again in two halves: {answer.failure.message}"
        )
        halves = np.array_split(client_indices, 2)
        by_half = dict(self.gather(halves))
        replies = [self.recovered(half, by_half[half_index]) for half_index, half in enumerate(halves)]
        return merged(replies, keep_individual=self.keep_individual)


def absences(plan: RoundPlan, *, secret: bool) -> list[str]:
    """A note on the clients of a cohort that were not asked, because they were away when the round started.

    A `secret` cohort is counted, not named: privacy by sampling rests on it.
    """
    if not plan.away:
        return []
    if secret:
        return [f"not asked, because they were away: {counted(len(plan.away), 'client')} of the secret cohort"]
    others = f" and {counted(len(plan.away) - 3, 'other')}" if len(plan.away) > 3 else ""
    return [f"not asked, because they were away: {', '.join(plan.away[:3])}{others}"]


def disclosures(run: Run, metrics: Mapping[str, float]) -> list[str]:
    """A note on metrics of single clients that a round measured although the run's aggregator hides clients."""
    if not (metrics and run.aggregator.hides and run.config.eval.per_client):
        return []
    return [f"eval.disclose_clients: single clients were evaluated, which aggregator '{run.aggregator.name}' hides"]


def refusals(failed: Mapping[ClientId, Failure]) -> list[str]:
    """A sentence on each refusal by clients: the first client, how many others, and the reason."""
    by_reason: dict[str, list[ClientId]] = {}
    for client, failure in failed.items():
        if failure.kind == "refused":
            by_reason.setdefault(failure.message, []).append(client)
    others = {
        reason: f" and {counted(len(clients) - 1, 'other')}"
        for reason, clients in by_reason.items()
        if len(clients) > 1
    }
    return [f"client '{names[0]}'{others.get(why, '')} refused: {why}" for why, names in by_reason.items()]


def with_refusals(error: ProtocolError, failed: Mapping[ClientId, Failure]) -> ProtocolError:
    """Returns the error with the reasons that clients gave for refusing; the missing sum alone does not show them."""
    kind = RoundLostError if isinstance(error, RoundLostError) else ProtocolError
    unmentioned = {client: failure for client, failure in failed.items() if failure.message not in error.message}
    return kind("; ".join([error.message, *refusals(unmentioned)]), hint=error.hint)


def chunk_replies(
    engine: Engine, plan: RoundPlan, deadline: float | None, traffic: RoundTraffic, *, keep_individual: bool
) -> Iterator[Gathered]:
    """Yields the replies of the plan's chunks in the plan's order; the engine may answer in any order.

    `keep_individual` asks for each client's vectors. Raises FlctlError if the engine leaves out a chunk.
    """
    requests = _ChunkRequests(engine, plan, keep_individual, deadline, traffic)
    chunks = [plan.numbers[positions] for positions in plan.chunks]
    waiting: dict[int, Gathered | Lost] = {}
    next_index = 0
    for chunk_index, answer in requests.gather(chunks):
        waiting[chunk_index] = answer
        while isinstance(waiting.get(next_index), Gathered):
            yield waiting.pop(next_index)  # type: ignore[misc]
            next_index += 1
    if next_index + len(waiting) != len(chunks):
        answered = f"{next_index + len(waiting)} of {counted(len(chunks), 'chunk')}"
        raise FlctlError(f"the engine returned {answered}", hint="This is a bug in the engine.")
    for chunk_index in range(next_index, len(chunks)):  # only now is the engine free to be asked again
        yield requests.recovered(chunks[chunk_index], waiting.pop(chunk_index))


def in_order(
    answers: Iterable[tuple[ClientId, Reply | Failure]], order: Sequence[ClientId]
) -> Iterator[tuple[ClientId, Reply | Failure]]:
    """The answers in the order of the cohort, each as soon as all before it are there."""
    waiting: dict[ClientId, Reply | Failure] = {}
    position = 0
    for client, answer in answers:
        waiting[client] = answer
        while position < len(order) and order[position] in waiting:
            yield order[position], waiting.pop(order[position])
            position += 1
    if position != len(order):
        raise FlctlError(
            f"the engine returned {position} of {counted(len(order), 'answer')}", hint="This is a bug in the engine."
        )


def timed_wait(replies: Iterator[Item], clock: PhaseTimer) -> Iterator[Item]:
    """The replies, with the time spent waiting for them counted as `train`."""
    while True:
        with clock.phase("train"):
            item = next(replies, None)
        if item is None:
            return
        yield item

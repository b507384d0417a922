"""One round's exchange with its clients: requests out, replies in, one aggregate from them."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from flctl.algorithms.aggregator import AggregationContext, Phase
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateCollector, UpdateIntake
from flctl.engines.engine import Engine
from flctl.errors import DivergenceError, PluginError, ProtocolError, RoundLostError
from flctl.run.run import Run
from flctl.server.collect import RoundTraffic, chunk_replies, in_order, timed_wait, with_refusals
from flctl.server.failure_budget import FailureBudget
from flctl.server.round_journal import ClosedPhase, ExchangeRecord
from flctl.server.step import require_vectors, server_context
from flctl.simulation.attacks.intake import AttackedAccumulator
from flctl.timing import PhaseTimer
from flctl.types import WEIGHT, Aggregate, ClientId, Failure, Reply, Request, RoundPlan
from flctl.wire import messages

__all__ = ["ROUNDING", "Aggregation", "declared_weight", "update_intake"]

Answers = Generator[tuple[ClientId, Reply | Failure], None, None]
UNFINISHED = frozenset({"away", "deadline", "stalled"})
"""Failures after which a client may still be at work."""
ROUNDING = 1.05
"""Most rows that a client may have for each row that it declared to two digits."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Obtains one round's aggregate from an open engine; `traffic` and `timer` record what that took, `record` what a
    resumed run repeats."""

    run: Run
    engine: Engine
    plan: RoundPlan
    traffic: RoundTraffic
    timer: PhaseTimer
    record: ExchangeRecord = field(default_factory=ExchangeRecord)

    def aggregate(self) -> Aggregate | None:
        """Returns the round's aggregate; None if the round is lost, with the reason among the round's notes.

        Raises RoundFailedError, DivergenceError or ProtocolError if more clients fail than allowed, ProtocolError if
        the aggregator gives up, PluginError if the aggregator or the strategy breaks its contract.
        """
        if not self._by_chunks:
            return self._by_protocol()
        return self._checked(self._from_chunks())

    @property
    def _by_chunks(self) -> bool:
        """True if a chunk of clients may send one reply: the aggregator needs nothing but their vectors."""
        whole = self.run.aggregator.transparent and not self.run.config.engine.alone
        return self.engine.gathers and whole and self._trains

    @property
    def _trains(self) -> bool:
        """True if updates are asked for; sums over rows are neither attacked nor judged."""
        return self.plan.work.ask == "train"

    @property
    def _budget(self) -> FailureBudget:
        return FailureBudget(self.run, self.plan, self.traffic.intake.failed)

    def _from_chunks(self) -> Aggregate:
        ids, deadline = self.run.partition.client_ids, self.run.config.engine.deadline
        total = self._accumulator()
        self.traffic.bytes_down = messages.work_size(self.plan.work) * len(self.plan.cohort)
        replies = chunk_replies(self.engine, self.plan, deadline, self.traffic, keep_individual=self.run.takes_each)
        for gathered in self._budget.checked(timed_wait(replies, self.timer)):
            for client_index, failure in gathered.failed.items():
                self.traffic.intake.failed[ids[client_index]] = failure
            with self.timer.phase("aggregate"):
                total.merge(gathered, ids.take(gathered.numbers).tolist())
            self.traffic.take(gathered)
        with self.timer.phase("aggregate"):
            return total.aggregate()

    def _by_protocol(self) -> Aggregate | None:
        try:
            return self._checked(self._from_protocol())
        except ProtocolError as error:
            found = with_refusals(error, self.traffic.intake.failed)
            skips = all(transform.skips_rounds for transform in self.run.transforms.values())
            if not isinstance(error, RoundLostError) or not skips:
                raise found from error
        self.traffic.notes.append(found.message)
        return None

    def _from_protocol(self) -> Aggregate:
        plan, traffic, total = self.plan, self.traffic, self._accumulator()
        deadline = self.run.config.engine.deadline
        layout, note = traffic.intake.layout, traffic.notes.append
        ctx = AggregationContext(
            plan.round, plan.cohort, layout, lambda: total, plan.work, note, deadline, self.record.fresh
        )
        protocol = self.engine.enrolled(self.run.aggregator).server(ctx)
        step = self._advance(protocol, None)
        while isinstance(step, Phase):
            with closing(self._exchange(step)) as replies:
                step = self._advance(protocol, timed_wait(replies, self.timer))
                with self.timer.phase("train"):
                    # The clients were asked, so replies that the aggregator did not read are awaited and counted too.
                    for _ in replies:
                        pass
        for client, reported in traffic.metrics.items():
            if reported and client not in traffic.intake.failed:
                traffic.count(reported.get("loss", math.nan), reported.get("examples", 0.0))
        return step

    def _advance(
        self,
        protocol: Generator[Phase, Iterable[tuple[ClientId, bytes]], Aggregate],
        replies: Iterator[tuple[ClientId, bytes]] | None,
    ) -> Phase | Aggregate:
        """Returns the aggregator's next phase, or its result."""
        try:
            with self.timer.phase("aggregate"):
                # A generator that has not started takes None.
                phase = protocol.send(replies)  # type: ignore[arg-type]
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]
        name = self.run.aggregator.name
        if not isinstance(phase, Phase):
            raise PluginError(f"aggregator '{name}' yielded {type(phase).__name__}, expected a Phase")
        if not phase.messages.keys() <= set(self.plan.cohort):
            strangers = ", ".join(sorted(phase.messages.keys() - set(self.plan.cohort))[:3])
            raise PluginError(f"aggregator '{name}' has messages for clients that are not in the cohort: {strangers}")
        return phase

    def _exchange(self, phase: Phase) -> Generator[tuple[ClientId, bytes], None, None]:
        """Yields the replies of one phase in cohort order. Clients that fail are recorded and left out."""
        traffic, closed = self.traffic, self.record.closed()
        requests = self._requests(phase)
        failed_before, counted = dict(traffic.intake.failed), list[ClientId]()
        size = messages.work_size(self.plan.work) if phase.trains else 0
        traffic.bytes_down += sum(size + len(message or b"") for message in phase.messages.values())
        with closing(self._answers(requests, closed)) as answers:
            for client, answer in self._budget.checked(answers):
                if isinstance(answer, Failure):
                    traffic.intake.failed[client] = answer
                    traffic.untrained |= {client} if phase.trains else set()
                    continue
                if phase.trains:  # of several attempts, the last counts
                    traffic.untrained.discard(client)
                traffic.bytes_up += len(answer.message)
                traffic.metrics[client] = answer.metrics or traffic.metrics.get(client, {})
                counted.append(client)
                yield client, answer.message
        if closed is None:
            failed = {client: why for client, why in traffic.intake.failed.items() if client not in failed_before}
            self.record.close(counted, failed)

    def _answers(self, requests: Mapping[ClientId, Request], closed: ClosedPhase | None) -> Answers:
        """Yields the answers in cohort order. Of a phase that was closed before a crash, the replies that were counted
        are fetched again; the other clients are not asked."""
        asked = [client for client in self.plan.cohort if client in requests]
        if closed is None:
            with closing(self._awaited(requests)) as answers:
                yield from in_order(answers, asked)
            return
        again = {client: requests[client] for client in asked if client in closed.counted}
        replies = in_order(self.engine.exchange(again), list(again))
        for client in asked:
            if client not in again:
                yield client, closed.failed.get(client, Failure("away", "it had not answered when the phase ended"))
                continue
            answer = next(replies)[1]
            if isinstance(answer, Failure):
                raise self.record.gone(client, answer)
            yield client, answer

    def _awaited(self, requests: Mapping[ClientId, Request]) -> Answers:
        """Yields the answers as they come. At the end, also after an error, clients that may still be at work are
        cancelled."""
        waiting = set(requests)
        try:
            for client, answer in self.engine.exchange(requests, self.run.config.engine.deadline):
                if not (isinstance(answer, Failure) and answer.kind in UNFINISHED):
                    waiting.discard(client)
                yield client, answer
        finally:
            if waiting:
                self.engine.cancel(sorted(waiting))

    def _requests(self, phase: Phase) -> dict[ClientId, Request]:
        plan, work = self.plan, self.plan.work if phase.trains else None
        requests = {
            plan.cohort[position]: Request(plan.round, work, phase.messages[plan.cohort[position]], chunk)
            for chunk, positions in enumerate(plan.chunks)
            for position in positions.tolist()
            if plan.cohort[position] in phase.messages
        }
        if not phase.trains:
            # A straggler is in no chunk because its update comes too late, but it can still take part in the protocol.
            late = (client for client in plan.cohort if client in phase.messages and client not in requests)
            requests |= {client: Request(plan.round, None, phase.messages[client]) for client in late}
        return requests

    def _accumulator(self) -> SumAccumulator | UpdateCollector | AttackedAccumulator:
        honest = self._honest_accumulator()
        if not (self.run.attacks_updates and self._trains):
            return honest
        ids = self.run.partition.client_ids
        return AttackedAccumulator(honest, self.run.adversary, self.run.pipeline, ids, self.plan)

    def _honest_accumulator(self) -> SumAccumulator | UpdateCollector:
        plan, intake = self.plan, self.traffic.intake
        if self.run.judges and self._trains:
            return UpdateCollector(intake, plan.cohort, self.run.strategy.combine)
        chunk_of = {
            plan.cohort[position]: chunk
            for chunk, positions in enumerate(plan.chunks)
            for position in positions.tolist()
        }
        return SumAccumulator(intake, chunk_of, multiplied=self.run.multiplies)

    def _checked(self, aggregate: Any) -> Aggregate:
        """Returns the aggregate of a budget that holds. Raises PluginError or DivergenceError if it cannot be used."""
        self._budget.check()
        round_number, layout = self.plan.round, self.traffic.intake.vectors
        aggregator = f"aggregator '{self.run.aggregator.name}'"
        if not isinstance(aggregate, Aggregate):
            raise PluginError(f"{aggregator} returned {type(aggregate).__name__}, expected an Aggregate")
        strategy = f"strategy '{self.run.strategy.name}' combined"
        source = strategy if self.run.strategy.reads_each else f"{aggregator} gave"
        require_vectors(aggregate.arrays, layout, source, round_number)
        for name, vector in aggregate.arrays.items():
            if not np.isfinite(vector).all():
                raise DivergenceError(f"round {round_number}: the sum of the updates overflowed in '{name}'")
        return aggregate


def update_intake(run: Run, plan: RoundPlan) -> UpdateIntake:
    """Returns the intake that opens, checks and, if the server reads single updates, decodes the round's messages."""
    pipeline = run.pipeline
    shared, context = pipeline.shared_by_all(plan.work), partial(server_context, run, plan)
    decodes = run.takes_each and bool(run.transforms)
    return UpdateIntake(
        {**pipeline.sent, WEIGHT: 1},
        arrive=(lambda update: pipeline.arrive(update, shared, context)) if decodes else None,
        arrived=pipeline.arrived,
        most_weight=None if run.partition.here or plan.work.ask != "train" else partial(declared_weight, run),
    )


def declared_weight(run: Run, client_id: ClientId) -> float:
    """Returns the largest weight of a client whose rows are elsewhere: that of the training rows that it declared.

    Declared rows may be rounded to two digits, which hides up to 5 % of them.
    """
    rows = run.partition.train_sizes(np.array([run.partition.index(client_id)]))
    return ROUNDING * float(run.pipeline.weigh(rows)[0])

"""One round: plan, exchange, aggregate, step, evaluate; the only file that knows the order of these."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.aggregator import AggregationContext, Phase
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateCollector, UpdateIntake
from flctl.algorithms.pipeline import begin_round, transform_statements
from flctl.algorithms.strategy import StepContext
from flctl.algorithms.transform import ServerContext
from flctl.client.memory import ClientMemory, work_after
from flctl.client.memory_store import MemoryStore
from flctl.engines.engine import Engine
from flctl.errors import DivergenceError, PluginError, ProtocolError, RoundFailedError, RoundLostError
from flctl.evaluation import evaluate
from flctl.evaluation.backdoor import backdoor_success
from flctl.executors.sequential import single_thread
from flctl.run import cohort as cohorts
from flctl.run.run import Run
from flctl.server.collect import RoundTraffic, chunk_replies, disclosures, in_order, timed_wait, with_refusals
from flctl.server.round_plan import local_work
from flctl.simulation.attacks.intake import AttackedAccumulator
from flctl.simulation.devices import Participation
from flctl.timing import PhaseTimer
from flctl.types import (
    WEIGHT,
    Aggregate,
    Arrays,
    Batch,
    ClientId,
    Failure,
    IntArray,
    Request,
    RoundPlan,
    RoundReport,
    Work,
)
from flctl.wire import messages

__all__ = ["Rounds", "State"]

KEPT_BYTES = 1 << 27
"""Test rows up to this size stay in memory, as models take them."""


@dataclass(frozen=True, slots=True)
class State:
    """The server's state after `round` rounds; what a checkpoint keeps of it is all that later rounds depend on."""

    round: int
    params: Arrays
    strategy: Arrays
    transforms: Mapping[str, Arrays]


class Rounds:
    """Runs rounds of a run over an open engine. Keeps nothing between rounds but what `State` says."""

    def __init__(self, run: Run, engine: Engine) -> None:
        single_thread()
        self.run = run
        self.engine = engine
        self.model = run.build_model()
        self.task = run.task()
        self.memory = MemoryStore(run.memory_directory, run.partition.clients, run.memory_layout)
        self.ids = run.partition.client_ids
        self.eligible = np.flatnonzero(run.partition.counts[:, 0])
        self._deadline = run.config.engine.deadline
        self._kept_rows: Batch | None = None
        self.trusted = np.array([run.partition.index(client) for client in run.strategy.trusted], np.int64)

    def initial(self) -> State:
        """The state before the first round."""
        params = self.model.read()
        return State(
            round=0,
            params=params,
            strategy=self.run.strategy.init(self.run.division.public_of(params)),
            transforms={name: t.init(self.run.pipeline.layouts[name]) for name, t in self.run.transforms.items()},
        )

    def play(self, state: State, *, last: Callable[[float], bool]) -> tuple[State, RoundReport]:
        """One round: plan, exchange, aggregate, step, evaluate. `last(seconds)` says whether to evaluate in any case.

        Raises RoundFailedError, DivergenceError, ProtocolError or PluginError, and changes nothing, when the round
        cannot be used; PrivacyBudgetError before it begins. A round that is lost (RoundLostError) leaves the model.
        """
        state = _frozen(replace(state, transforms=begin_round(self.run, state.round + 1, state.transforms)))
        clock = PhaseTimer()
        with clock.phase("select"):
            plan = self.plan(state)
        traffic = RoundTraffic(self._intake(plan))
        aggregate = self._gather(plan, traffic, clock) if self._gathers else self._summed(plan, traffic, clock)
        self._retract(plan, traffic, lost=aggregate is None)
        with clock.phase("aggregate"):
            state = replace(state, round=plan.round) if aggregate is None else self._step(state, aggregate, plan)
        metrics: dict[str, float] = {}
        if self._evaluates(state.round) or last(clock.report()["total"]):
            with clock.phase("evaluate"):
                metrics = self.evaluate(state)
            traffic.notes.extend(disclosures(self.run, metrics))
        report = self._report(plan, traffic, aggregate, metrics, clock)
        return state, replace(report, told=transform_statements(self.run, state.transforms))

    def _retract(self, plan: RoundPlan, traffic: RoundTraffic, *, lost: bool) -> None:
        """Drops this round from the memory of clients whose reply was not used, to keep it in step with the server."""
        unused = traffic.intake.failed.keys() if self.run.aggregator.transparent else traffic.untrained
        unused = set(plan.cohort) if lost else unused
        if self.run.memory_layout and unused:
            self.memory.retract([self.run.partition.index(client) for client in unused], plan.round)

    def plan(self, state: State) -> RoundPlan:
        """Who takes part in the round after `state`, and what they are asked."""
        run, number, config = self.run, state.round + 1, self.run.config
        asked = cohorts.select(run.cohort, self.eligible, self.ids, number, config.seed, run.secret_cohort)
        turnout = run.devices.turnout(number, np.union1d(asked, self.trusted) if len(self.trusted) else asked)
        broadcasts = {name: t.broadcast(state.transforms[name]) for name, t in self.run.transforms.items()}
        work = Work(
            round=number,
            params=arrays.frozen(self.run.division.public_of(state.params)),
            extra=arrays.frozen(self.run.strategy.broadcast(state.strategy)),
            transforms={name: arrays.frozen(vectors) for name, vectors in broadcasts.items() if vectors},
            local=local_work(self.run, number),
            layout=self.run.update_layout,
            allowance=turnout.allowance,
        )
        cohort = tuple(self.ids.take(turnout.numbers).tolist())
        return RoundPlan(number, cohort, work, turnout.numbers, tuple(self._chunks(turnout)), turnout.told)

    def _chunks(self, turnout: Participation) -> list[IntArray]:
        """The places in the cohort of those that train together."""
        bounds, chunks = self.run.partition.bounds[turnout.numbers], self.run.execution.chunks
        sizes, counted = bounds[:, 1] - bounds[:, 0], turnout.counted
        return chunks(sizes) if counted is None else [counted[c] for c in chunks(sizes[counted], turnout.steps)]

    def evaluate(self, state: State) -> dict[str, float]:
        """The central metrics of the state's model, and their spread over clients where it is asked for; nothing
        where the partition has no test rows."""
        chosen, partition = self.run.config.eval, self.run.partition
        if not partition.manifest.rows.central_test:
            return {}
        self.model.load(state.params)
        metrics = evaluate.central(self.model, self._test_rows(), self.task, chosen.batch_size)
        metrics |= backdoor_success(self.run, self.model, self.task)
        if chosen.per_client:
            metrics |= evaluate.spread_over_clients(self.model, partition, self.task, chosen.batch_size)
        if chosen.per_client and self.run.strategy.personalises:
            recall = ClientMemory(self.run, self.memory, self.run.division.private_of(state.params))
            own = recall.models(work_after(self.run, state.round, state.params, state.strategy))
            metrics |= evaluate.spread_of_own_models(self.model, own, partition, self.task, chosen.batch_size)
        return metrics

    def _test_rows(self) -> Batch:
        """The central test rows, kept from one evaluation to the next unless they are many."""
        rows = self._kept_rows or self.run.partition.central_test()
        if sum(part.nbytes for part in rows) <= KEPT_BYTES:
            self._kept_rows = rows
        return rows

    def _evaluates(self, number: int) -> bool:
        return self.run.config.eval.every > 0 and number % self.run.config.eval.every == 0

    @property
    def _gathers(self) -> bool:
        """Whether chunks of clients may reply together: the aggregator needs no more than their vectors."""
        return self.engine.gathers and self.run.aggregator.transparent

    def _gather(self, plan: RoundPlan, traffic: RoundTraffic, clock: PhaseTimer) -> Aggregate:
        """The round's aggregate from chunks of clients that reply together."""
        total = self._total(plan, traffic.intake)
        traffic.bytes_down = messages.work_size(plan.work) * len(plan.cohort)
        replies = chunk_replies(self.engine, plan, self.run.each, self._deadline, traffic)
        for gathered in timed_wait(replies, clock):
            ids = self.ids.take(gathered.numbers).tolist()
            for number, failure in gathered.failed.items():
                traffic.intake.failed[self.ids[number]] = failure
            with clock.phase("aggregate"):
                total.merge(gathered, ids)
            self._judge(plan, traffic.intake.failed)
            traffic.take(gathered)
        with clock.phase("aggregate"):
            aggregate = total.aggregate()
        self._judge(plan, traffic.intake.failed)
        return self._checked(aggregate, traffic.intake.vectors, plan.round)

    def _summed(self, plan: RoundPlan, traffic: RoundTraffic, clock: PhaseTimer) -> Aggregate | None:
        """The round's aggregate from the aggregator's protocol; None if the round is lost, and a note says why."""
        try:
            return self._aggregate(plan, traffic, clock)
        except ProtocolError as error:
            found = with_refusals(error, traffic.intake.failed)
            if not isinstance(error, RoundLostError) or not all(t.skips_rounds for t in self.run.transforms.values()):
                raise found from error
        traffic.notes.append(found.message)
        return None

    def _aggregate(self, plan: RoundPlan, traffic: RoundTraffic, clock: PhaseTimer) -> Aggregate:
        total = self._total(plan, traffic.intake)
        note = traffic.notes.append
        layout = traffic.intake.layout
        ctx = AggregationContext(plan.round, plan.cohort, layout, lambda: total, plan.work, note, self._deadline)
        protocol = self.run.aggregator.server(ctx)
        step = self._advance(protocol, None, plan, clock)
        while isinstance(step, Phase):
            replies = self._exchange(plan, step, traffic, clock)
            step = self._advance(protocol, timed_wait(replies, clock), plan, clock)
            with clock.phase("train"):
                for _ in replies:  # what the aggregator did not ask for takes place and is counted all the same
                    pass
        self._judge(plan, traffic.intake.failed)
        for client, reported in traffic.metrics.items():
            if reported and client not in traffic.intake.failed:
                traffic.count(reported.get("loss", math.nan), reported.get("examples", 0.0))
        return self._checked(step, traffic.intake.vectors, plan.round)

    def _advance(
        self,
        protocol: Generator[Phase, Iterable[tuple[ClientId, bytes]], Aggregate],
        replies: Iterator[tuple[ClientId, bytes]] | None,
        plan: RoundPlan,
        clock: PhaseTimer,
    ) -> Phase | Aggregate:
        """The aggregator's next phase, or its result."""
        try:
            with clock.phase("aggregate"):
                # A generator that has not started takes None.
                phase = protocol.send(replies)  # type: ignore[arg-type]
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]
        name = self.run.aggregator.name
        if not isinstance(phase, Phase):
            raise PluginError(f"aggregator '{name}' yielded {type(phase).__name__}, expected a Phase")
        if not phase.messages.keys() <= set(plan.cohort):
            strangers = ", ".join(sorted(phase.messages.keys() - set(plan.cohort))[:3])
            raise PluginError(f"aggregator '{name}' has messages for clients that are not in the cohort: {strangers}")
        return phase

    def _checked(self, aggregate: Aggregate, layout: Mapping[str, int], number: int) -> Aggregate:
        whose = f"aggregator '{self.run.aggregator.name}'"
        if not isinstance(aggregate, Aggregate):
            raise PluginError(f"{whose} returned {type(aggregate).__name__}, expected an Aggregate")
        combined = f"strategy '{self.run.strategy.name}' combined" if self.run.strategy.reads_each else f"{whose} gave"
        _require(aggregate.arrays, layout, combined, number)
        for name, vector in aggregate.arrays.items():
            if not np.isfinite(vector).all():
                raise DivergenceError(f"round {number}: the sum of the updates overflowed in '{name}'")
        return aggregate

    def _total(self, plan: RoundPlan, intake: UpdateIntake) -> SumAccumulator | UpdateCollector | AttackedAccumulator:
        total = self._honest(plan, intake)
        if not self.run.attacks_updates:
            return total
        return AttackedAccumulator(total, self.run.adversary, self.run.pipeline, self.ids, plan)

    def _honest(self, plan: RoundPlan, intake: UpdateIntake) -> SumAccumulator | UpdateCollector:
        if not self.run.judges:
            chunk_of = {plan.cohort[place]: k for k, places in enumerate(plan.chunks) for place in places.tolist()}
            return SumAccumulator(intake, chunk_of, self.run.multiplies)
        return UpdateCollector(intake, plan.cohort, self.run.strategy.combine)

    def _intake(self, plan: RoundPlan) -> UpdateIntake:
        pipeline = self.run.pipeline
        shared, context = pipeline.shared_by_all(plan.work), partial(self._server_context, plan)
        decodes = self.run.each and bool(self.run.transforms)
        return UpdateIntake(
            {**pipeline.sent, WEIGHT: 1},
            arrive=(lambda update: pipeline.arrive(update, shared, context)) if decodes else None,
            arrived=pipeline.arrived,
        )

    def _exchange(
        self, plan: RoundPlan, phase: Phase, traffic: RoundTraffic, clock: PhaseTimer
    ) -> Iterator[tuple[ClientId, bytes]]:
        """The replies of one exchange in cohort order; a client that failed is noted, counted and left out."""
        work = plan.work if phase.trains else None
        requests = {
            plan.cohort[place]: Request(plan.round, work, phase.messages[plan.cohort[place]], chunk)
            for chunk, places in enumerate(plan.chunks)
            for place in places.tolist()
            if plan.cohort[place] in phase.messages
        }
        if not phase.trains:  # whoever is late with its work is there all the same
            late = (client for client in plan.cohort if client in phase.messages and client not in requests)
            requests |= {client: Request(plan.round, None, phase.messages[client]) for client in late}
        size = messages.work_size(plan.work) if phase.trains else 0
        traffic.bytes_down += sum(size + len(message or b"") for message in phase.messages.values())
        answers = self.engine.exchange(requests, self._deadline)
        asked = [client for client in plan.cohort if client in requests]
        for client, answer in in_order(answers, asked):
            if isinstance(answer, Failure):
                traffic.intake.failed[client] = answer
                traffic.untrained |= {client} if phase.trains else set()
                self._judge(plan, traffic.intake.failed)
                continue
            if phase.trains:  # of several attempts, the last counts
                traffic.untrained.discard(client)
            traffic.bytes_up += len(answer.message)
            traffic.metrics[client] = answer.metrics or traffic.metrics.get(client, {})
            yield client, answer.message
            self._judge(plan, traffic.intake.failed)

    def _judge(self, plan: RoundPlan, failed: Mapping[ClientId, Failure]) -> None:
        allowed = self.run.config.engine.max_failures
        if len(failed) <= allowed:
            return
        client = next(client for client in plan.cohort if client in failed)
        failure = failed[client]
        message = (
            f"round {plan.round}: client '{client}' failed ({failure.kind}): {failure.message}; "
            f"{len(failed)} failed, max_failures is {allowed}, the seed is {self.run.config.seed}"
        )
        run = shlex.quote(self.run.memory_directory.parent.as_posix())
        replay = f"Look closer with `flctl runs replay {run} --round {plan.round} --client {shlex.quote(client)}`"
        if all(f.kind == "non-finite" for f in failed.values()):
            raise DivergenceError(message, hint=f"Lower local.lr (it is {plan.work.local.lr:g}). {replay}.")
        if failure.kind == "refused":
            raise ProtocolError(message, hint=f"{replay}.")
        raise RoundFailedError(message, hint=f"{replay}, or go on without such clients with --max-failures.")

    def _step(self, state: State, aggregate: Aggregate, plan: RoundPlan) -> State:
        states: dict[str, Arrays] = dict(state.transforms)
        for name, transform in list(self.run.transforms.items())[::-1]:
            ctx = self._server_context(plan, name)
            aggregate = self.run.pipeline.decoded(aggregate, name, ctx.shared)
            aggregate, states[name] = transform.on_server(aggregate, state.transforms[name], ctx)
            _require(states[name], None, f"transform '{name}' returned a state with", plan.round)
        population = len(self.eligible), int(self.run.partition.counts[:, 0].sum())
        step = StepContext(plan.round, self.run.config.seed, self.run.server, *population)
        division = self.run.division
        params, strategy = self.run.strategy.step(division.public_of(state.params), aggregate, state.strategy, step)
        whose = f"strategy '{self.run.strategy.name}' returned"
        _require(params, self.run.layout, f"{whose} a model with", plan.round)
        _require(strategy, None, f"{whose} a state with", plan.round)
        whole = division.whole(params, division.private_of(state.params))
        return State(plan.round, self._normal(whole, plan.round), strategy, states)

    def _normal(self, params: Arrays, number: int) -> Arrays:
        """The model as it will be read back from a checkpoint: finite, and integer buffers rounded."""
        for name, vector in params.items():
            if not np.isfinite(vector).all():
                raise DivergenceError(
                    f"round {number}: the new global model has values in '{name}' that are NaN or infinite",
                    hint=f"Lower local.lr or server.lr (it is {self.run.server.lr:g}).",
                )
        self.model.load({name: vector.astype(np.float32, copy=False) for name, vector in params.items()})
        return self.model.read()

    def _server_context(self, plan: RoundPlan, name: str) -> ServerContext:
        generator = seeds.rng(self.run.config.seed, "round", plan.round, "server", name)
        shared = self.run.pipeline.shared(name, plan.round, plan.work.transforms)
        return ServerContext(plan.round, len(plan.cohort), generator, shared)

    def _report(
        self,
        plan: RoundPlan,
        traffic: RoundTraffic,
        aggregate: Aggregate | None,
        metrics: Mapping[str, float],
        clock: PhaseTimer,
    ) -> RoundReport:
        return RoundReport(
            round=plan.round,
            asked=len(plan.cohort) + int(plan.devices.get("absent", 0)),
            answered=0 if aggregate is None else aggregate.count,
            released=aggregate is not None,
            failed=dict(traffic.intake.failed),
            examples=int(traffic.examples),
            loss=traffic.mean_loss,
            seconds=clock.report(),
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            metrics=metrics,
            work=traffic.work,
            notes=tuple(traffic.notes),
            devices=plan.devices,
            attackers=len(self.run.adversary.among(plan.round, plan.numbers)),
        )


def _require(vectors: Any, layout: Mapping[str, int] | None, what: str, number: int) -> None:
    wrong = arrays.misfit(vectors, layout)
    if wrong:
        raise PluginError(f"round {number}: {what} {wrong}")


def _frozen(state: State) -> State:
    """The state with vectors that no component can change in place: a failed round leaves it as it was."""
    transforms = {name: arrays.frozen(vectors) for name, vectors in state.transforms.items()}
    return State(state.round, arrays.frozen(state.params), arrays.frozen(state.strategy), transforms)

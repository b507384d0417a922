"""One round: plan, exchange, aggregate, step, evaluate, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

from flctl.algorithms.pipeline import begin_round, transform_statements
from flctl.client.memory import ClientMemory, work_after
from flctl.client.memory_store import MemoryStore
from flctl.engines.engine import Engine
from flctl.evaluation import evaluate
from flctl.evaluation.backdoor import backdoor_success
from flctl.executors.sequential import single_thread
from flctl.run.run import Run
from flctl.server.aggregation import Aggregation, update_intake
from flctl.server.availability import Availability, never
from flctl.server.client_sums import ClientSums
from flctl.server.collect import RoundTraffic, absences, disclosures
from flctl.server.round_journal import ExchangeRecord, RoundJournal
from flctl.server.round_plan import RoundPlanner
from flctl.server.state import State, initial_state
from flctl.server.step import server_step
from flctl.timing import PhaseTimer
from flctl.types import Aggregate, Batch, RoundPlan, RoundReport, measured_as

__all__ = ["Rounds"]

KEPT_BYTES = 1 << 27
"""Central rows to score up to this size stay in memory, in the form that the model takes."""


class Rounds:
    """Runs the rounds of a run over an open engine. All that one round hands to the next is in `State`."""

    def __init__(self, run: Run, engine: Engine, interrupted: Callable[[], bool] = never) -> None:
        single_thread()
        self.run = run
        self.engine = engine
        self.model = run.build_model()
        self.task = run.task()
        self.memory = engine.client_memory(run)
        self._planner = RoundPlanner(run, Availability(run, engine, interrupted))
        self._kept_rows: Batch | None = None
        self._sums = ClientSums(run, engine) if run.scores_at_clients and run.selection_split is not None else None
        if self._sums is not None:
            self._sums.check()

    def initial(self) -> State:
        """Returns the state before the first round."""
        return initial_state(self.run, self.model.read())

    def play(self, state: State, *, last: Callable[[float], bool]) -> tuple[State, RoundReport]:
        """Runs the round after `state`; returns the state after it and its report.

        `last(seconds)` is True if no round follows one that took so long; the last round is always evaluated. Raises
        PrivacyBudgetError before the round begins; RoundFailedError, DivergenceError, ProtocolError or PluginError if
        it cannot be used, and `state` is unchanged then. A lost round (RoundLostError) leaves the model as it was.
        """
        if self.run.partition.here:
            return self._played(state, None, last)
        journal = RoundJournal(self.run.directory, state.round + 1)
        with journal.kept_unless_failed():
            return self._played(state, journal, last)

    def _played(
        self, state: State, journal: RoundJournal | None, last: Callable[[float], bool]
    ) -> tuple[State, RoundReport]:
        state = replace(state, transforms=begin_round(self.run, state.round + 1, state.transforms)).frozen()
        timer, record = PhaseTimer(), journal.exchange("train") if journal else ExchangeRecord()
        with timer.phase("select"):
            plan = self.plan(state) if journal is None else self._planner.plan(state, record)
        traffic = RoundTraffic(update_intake(self.run, plan), notes=absences(plan, secret=self.run.secret_cohort))
        aggregate = Aggregation(self.run, self.engine, plan, traffic, timer, record).aggregate()
        self._retract(plan, traffic, lost=aggregate is None)
        with timer.phase("aggregate"):
            state = self._after(state, aggregate, plan)
        metrics: dict[str, float] = {}
        if self._evaluates(state.round) or last(timer.report()["total"]):
            with timer.phase("evaluate"):
                metrics = self._measured(state, journal, traffic, timer)
            traffic.notes.extend(disclosures(self.run, metrics))
        report = self._report(plan, traffic, aggregate, metrics, timer)
        return state, replace(report, told=transform_statements(self.run, state.transforms))

    def plan(self, state: State) -> RoundPlan:
        """Returns the plan of the round after `state`: its cohort and their work."""
        return self._planner.plan(state)

    def _after(self, state: State, aggregate: Aggregate | None, plan: RoundPlan) -> State:
        if aggregate is None:
            return replace(state, round=plan.round)
        return server_step(self.run, self.model, state, aggregate, plan)

    def _retract(self, plan: RoundPlan, traffic: RoundTraffic, *, lost: bool) -> None:
        """Drops this round from the memory of clients whose reply was not used, to keep it in step with the server."""
        unused = traffic.intake.failed.keys() if self.run.aggregator.transparent else traffic.untrained
        unused = set(plan.cohort) if lost else unused
        if self.run.memory_layout and unused:
            self.memory.retract([self.run.partition.index(client) for client in unused], plan.round)

    def _measured(
        self, state: State, journal: RoundJournal | None, traffic: RoundTraffic, timer: PhaseTimer
    ) -> dict[str, float]:
        """Returns the metrics of the state's model, over central rows or by sums over the rows of clients."""
        if self._sums is None:
            return self.evaluate(state)
        record = journal.exchange("evaluate") if journal else ExchangeRecord("evaluate")
        return replace(self._sums, record=record).metrics(state.params, state.round, traffic, timer)

    def evaluate(self, state: State) -> dict[str, float]:
        """Returns the central metrics of the state's model, and their spread over clients if `eval.per_client` is set.

        They are over validation rows if the partition has any, else over test rows. Empty without either.
        """
        chosen, partition = self.run.config.eval, self.run.scored
        if not partition.manifest.rows.central_test:
            return {}
        self.model.load(state.params)
        measured = evaluate.Measured(partition.classes, self.run.extra_metrics, self.run.positive)
        metrics = evaluate.central(self.model, self._central_rows(), self.task, chosen.batch_size, measured)
        metrics = {measured_as(name, self.run.selection_split): value for name, value in metrics.items()}
        metrics |= backdoor_success(self.run, self.model, self.task)
        if chosen.per_client:
            metrics |= evaluate.spread_over_clients(self.model, partition, self.task, chosen.batch_size, measured)
        if chosen.per_client and self.run.strategy.personalises:
            memory = ClientMemory(self.run, self._records, self.run.division.private_of(state.params))
            own = memory.models(work_after(self.run, state.round, state.params, state.strategy))
            metrics |= evaluate.spread_of_own_models(self.model, own, partition, self.task, chosen.batch_size, measured)
        return metrics

    @cached_property
    def _records(self) -> MemoryStore:
        """Clients' records in the run's directory, from which their own models are evaluated."""
        return MemoryStore(self.run.memory_directory, self.run.partition.clients, self.run.memory_layout)

    def _central_rows(self) -> Batch:
        """Returns the central rows to score; up to KEPT_BYTES of them stay in memory between evaluations."""
        rows = self._kept_rows or self.run.scored.central_test()
        if sum(part.nbytes for part in rows) <= KEPT_BYTES:
            self._kept_rows = rows
        return rows

    def _evaluates(self, round_number: int) -> bool:
        return self.run.config.eval.every > 0 and round_number % self.run.config.eval.every == 0

    def _report(
        self,
        plan: RoundPlan,
        traffic: RoundTraffic,
        aggregate: Aggregate | None,
        metrics: Mapping[str, float],
        timer: PhaseTimer,
    ) -> RoundReport:
        return RoundReport(
            round=plan.round,
            asked=len(plan.cohort) + int(plan.devices.get("absent", 0)),
            answered=0 if aggregate is None else aggregate.count,
            released=aggregate is not None,
            failed=dict(traffic.intake.failed),
            examples=int(traffic.examples),
            loss=traffic.mean_loss,
            seconds=timer.report(),
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            metrics=metrics,
            split=self.run.selection_split if metrics else None,
            work=traffic.work,
            notes=tuple(traffic.notes),
            devices=plan.devices,
            attackers=len(self.run.adversary.among(plan.round, plan.numbers)),
        )

"""Sums over the rows of all clients, asked for like updates: the same aggregator, checks and limits on failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flctl.algorithms.aggregators.accumulators import UpdateIntake
from flctl.engines.engine import Engine
from flctl.errors import ConfigError, ProtocolError
from flctl.evaluation.column_sums import ColumnStatistics, ColumnSums
from flctl.evaluation.row_sums import RowSums
from flctl.evaluation.spread import PARTS, spread
from flctl.evaluation.sums_of_run import code_of, column_sums, row_sums
from flctl.metrics import headline, higher_is_better
from flctl.run.run import Run
from flctl.server.aggregation import ROUNDING, Aggregation
from flctl.server.availability import Availability
from flctl.server.collect import RoundTraffic
from flctl.server.round_journal import Drawn, ExchangeRecord
from flctl.server.round_plan import local_work
from flctl.timing import PhaseTimer
from flctl.types import (
    ROW_SUMS,
    WEIGHT,
    Arrays,
    Ask,
    ClientId,
    ClientUpdate,
    IntArray,
    RoundPlan,
    Work,
    measured_as,
)

__all__ = ["ClientSums"]


@dataclass(frozen=True, slots=True)
class ClientSums:
    """Asks clients for sums over their rows. Raises what a round's exchange raises: RoundFailedError if more clients
    fail than allowed, ProtocolError if the aggregator gives up."""

    run: Run
    engine: Engine
    record: ExchangeRecord = field(default_factory=ExchangeRecord)

    def check(self) -> None:
        """Raises IncompatibleError if the aggregator cannot add up the sums of an evaluation."""
        code_of(self.run, row_sums(self.run))

    def metrics(self, params: Arrays, round_number: int, traffic: RoundTraffic, timer: PhaseTimer) -> dict[str, float]:
        """Returns the metrics of the model over the rows of all clients that answer; empty without an answer.

        Their bytes, failures and notes are added to `traffic`.
        """
        code = row_sums(self.run)
        work = self._work("evaluate", round_number, code, self.run.division.public_of(params))
        own = self._exchange(work, traffic, timer)
        if own is None:
            return {}
        sums, replies = own
        found = code.values(sums, self.run.extra_metrics) | self._spread(replies)
        return {measured_as(name, self.run.selection_split): value for name, value in found.items()}

    def statistics(self, timer: PhaseTimer | None = None) -> ColumnStatistics:
        """Returns count, mean and squared deviations of each column over the training rows of all clients.

        Raises ConfigError if no client answers, or no `eval.min_rows` is set.
        """
        if self.run.config.eval.min_rows is None:
            raise ConfigError("statistics need a floor of rows", hint="Set eval.min_rows, for example to 10.")
        code, traffic = column_sums(self.run), RoundTraffic(UpdateIntake({}))
        own = self._exchange(self._work("statistics", 1, code, {}), traffic, timer or PhaseTimer())
        if own is None:
            raise ConfigError("no client gave statistics", hint="Lower eval.min_rows, or wait for the clients.")
        return code.statistics(own[0])

    def _work(self, ask: Ask, round_number: int, sums: RowSums | ColumnSums, params: Arrays) -> Work:
        layout = {ROW_SUMS[ask]: code_of(self.run, sums).words}
        return Work(round_number, params, {}, {}, local_work(self.run, round_number), layout, ask=ask)

    def _exchange(
        self, work: Work, traffic: RoundTraffic, timer: PhaseTimer
    ) -> tuple[list[int], dict[ClientId, dict[str, float]]] | None:
        """Returns the sums of the clients, and the figures of each that tells them; None without a sum."""
        plan = self._plan(work)
        if not len(plan.numbers):
            traffic.notes.append("no client with rows to sum is available")
            return None
        sums = column_sums(self.run) if work.ask == "statistics" else row_sums(self.run)
        own = RoundTraffic(
            UpdateIntake(
                {**work.layout, WEIGHT: 1},
                arrive=self._arriving(work.ask, sums) if self._sees_each else None,
                most_weight=lambda client: 1.0,
            )
        )
        aggregate = Aggregation(self.run, self.engine, plan, own, timer, self.record).aggregate()
        traffic.intake.failed.update(own.intake.failed)
        traffic.notes.extend(own.notes)
        traffic.bytes_up += own.bytes_up
        traffic.bytes_down += own.bytes_down
        if aggregate is None or not aggregate.count:
            return None
        usable = {client: own.metrics[client] for client in own.metrics.keys() - own.intake.failed.keys()}
        told = {client: dict(usable[client]) for client in plan.cohort if usable.get(client)}
        found = code_of(self.run, sums).decode(np.rint(aggregate.arrays[ROW_SUMS[work.ask]]).astype(np.int64))
        try:
            sums.check(found, self._most(work.ask, list(plan.cohort)))
        except ProtocolError as error:
            if work.ask == "statistics":
                raise
            traffic.notes.append(f"the model was not evaluated: {error.message}")
            return None
        return found, told

    @property
    def _sees_each(self) -> bool:
        """True if the server reads the sums of single clients, which are on other machines."""
        return self.run.aggregator.transparent and not self.run.partition.here

    def _arriving(self, ask: Ask, sums: RowSums | ColumnSums) -> Callable[[ClientUpdate], ClientUpdate]:
        """Returns what checks one client's sums. It raises ProtocolError for sums that its rows cannot have."""
        code = code_of(self.run, sums)

        def checked(update: ClientUpdate) -> ClientUpdate:
            words = np.asarray(update.arrays[ROW_SUMS[ask]], np.float64)
            if ((words < 0) | (words >= 1 << code.limb) | (words != np.rint(words))).any():
                raise ProtocolError(f"the reply has sums that are not words of {code.limb} bits")
            sums.check(code.decode(words.astype(np.int64)), self._most(ask, [update.client_id]))
            return update

        return checked

    def _most(self, ask: Ask, clients: Sequence[ClientId]) -> float:
        """Returns the most rows that these clients may have, from what they declared."""
        indices = [self.run.partition.index(client) for client in clients]
        return ROUNDING * float(self._rows(ask)[indices].sum())

    def _plan(self, work: Work) -> RoundPlan:
        asked = self._asked(work.ask)
        cohort = tuple(self.run.partition.client_ids.take(asked).tolist())
        self.record.draw(Drawn(cohort))
        return RoundPlan(work.round, cohort, work, asked, tuple(np.arange(len(asked)).reshape(-1, 1)))

    def _asked(self, ask: Ask) -> IntArray:
        """Returns the clients to ask, by index: those of the record, or those that have the rows and are available."""
        if self.record.drawn is not None:
            return np.array([self.run.partition.index(client) for client in self.record.drawn.asked], np.int64)
        enough = np.flatnonzero(self._rows(ask) >= (self.run.config.eval.min_rows or 1))
        return Availability(self.run, self.engine).reachable(enough)

    def _rows(self, ask: Ask) -> IntArray:
        partition = self.run.partition
        if ask == "statistics":
            return partition.counts[:, 0]
        return partition.validation_counts if self.run.selection_split == "validation" else partition.counts[:, 1]

    def _spread(self, replies: dict[ClientId, dict[str, float]]) -> dict[str, float]:
        """Returns the usual metric over clients, if clients tell their own figures."""
        name = headline(self.run.partition.task).metric
        figures = [figures for figures in replies.values() if {name, "rows"} <= figures.keys()]
        if not figures:
            return {}
        values, rows = (np.array([one[key] for one in figures]) for key in (name, "rows"))
        found = spread(values, rows, higher_is_better=higher_is_better(name))
        return {f"{name}_{part}": float(getattr(found, part)) for part in PARTS}

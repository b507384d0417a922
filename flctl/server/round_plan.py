"""The plan of a round: the cohort, its chunks, and the work that its clients are sent."""

from __future__ import annotations

import numpy as np

from flctl import arrays
from flctl.run import cohort as cohorts
from flctl.run.run import Run
from flctl.server.availability import Availability
from flctl.server.lr_schedule import scheduled
from flctl.server.round_journal import Drawn, ExchangeRecord
from flctl.server.state import State
from flctl.simulation.devices import Participation
from flctl.types import ClientId, IntArray, LocalWork, RoundPlan, Work

__all__ = ["RoundPlanner", "local_work"]


class RoundPlanner:
    """Plans the rounds of a run. `eligible` are the indices of the clients that have training rows."""

    def __init__(self, run: Run, availability: Availability) -> None:
        self.run, self.availability = run, availability
        self.ids = run.partition.client_ids
        self.eligible: IntArray = np.flatnonzero(run.partition.counts[:, 0])
        self._trusted: IntArray = np.array([run.partition.index(client) for client in run.strategy.trusted], np.int64)

    def plan(self, state: State, record: ExchangeRecord | None = None) -> RoundPlan:
        """Returns the plan of the round after `state`; the same state gives the same plan, unless the cohort is
        secret or clients are away. With a cohort in `record`, it is that one.

        Raises RoundFailedError if too few clients are available, WaitInterruptedError if the run is stopped meanwhile.
        """
        run, round_number = self.run, state.round + 1
        record = record or ExchangeRecord()
        asked, away = self._recorded(record.drawn) if record.drawn else self._drawn(round_number)
        participation = run.devices.participation(round_number, asked)
        plan = RoundPlan(
            round=round_number,
            cohort=tuple(self.ids.take(participation.client_indices).tolist()),
            work=self._work(state, participation),
            numbers=participation.client_indices,
            chunks=tuple(self._chunks(participation)),
            devices=participation.outcomes,
            away=away,
        )
        record.draw(Drawn(plan.cohort, away))
        return plan

    def _drawn(self, round_number: int) -> tuple[IntArray, tuple[ClientId, ...]]:
        """Returns the clients to ask, by index, and the ids of those that are away."""
        run = self.run
        drawn = cohorts.select(
            run.cohort, self.eligible, self.ids, round_number, run.config.seed, secret=run.secret_cohort
        )
        # The clients that a strategy trusts take part in every round, drawn or not.
        wanted = np.union1d(drawn, self._trusted) if len(self._trusted) else drawn
        asked = self.availability.present(round_number, wanted)
        away = tuple(self.ids.take(np.setdiff1d(wanted, asked)).tolist()) if len(asked) < len(wanted) else ()
        return asked, away

    def _recorded(self, drawn: Drawn) -> tuple[IntArray, tuple[ClientId, ...]]:
        return np.array([self.run.partition.index(client) for client in drawn.asked], np.int64), drawn.away

    def _work(self, state: State, participation: Participation) -> Work:
        run, round_number = self.run, state.round + 1
        broadcasts = {name: t.broadcast(state.transforms[name]) for name, t in run.transforms.items()}
        # Read-only, because one object is shared by all clients that an engine trains in this process.
        return Work(
            round=round_number,
            params=arrays.frozen(run.division.public_of(state.params)),
            extra=arrays.frozen(run.strategy.broadcast(state.strategy)),
            transforms={name: arrays.frozen(vectors) for name, vectors in broadcasts.items() if vectors},
            local=local_work(run, round_number),
            layout=run.update_layout,
            allowance=participation.allowance,
        )

    def _chunks(self, participation: Participation) -> list[IntArray]:
        """Returns, for each chunk, the positions of its clients in the cohort."""
        sizes, chunks = self.run.partition.train_sizes(participation.client_indices), self.run.execution.chunks
        counted = participation.counted
        if counted is None:
            return chunks(sizes)
        return [counted[positions] for positions in chunks(sizes[counted], participation.steps)]


def local_work(run: Run, round_number: int) -> LocalWork:
    """Returns the `local:` section for one round, with its learning rate scheduled."""
    return scheduled(run.config.local, run.config.rounds, round_number)

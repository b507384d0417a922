"""The plan of a round: the cohort, its chunks, and the work that its clients are sent."""

from __future__ import annotations

import numpy as np

from flctl import arrays
from flctl.run import cohort as cohorts
from flctl.run.run import Run
from flctl.server.availability import Availability
from flctl.server.lr_schedule import scheduled
from flctl.server.state import State
from flctl.simulation.devices import Participation
from flctl.types import IntArray, LocalWork, RoundPlan, Work

__all__ = ["RoundPlanner", "local_work"]


class RoundPlanner:
    """Plans the rounds of a run. `eligible` are the indices of the clients that have training rows."""

    def __init__(self, run: Run, availability: Availability) -> None:
        self.run, self.availability = run, availability
        self.ids = run.partition.client_ids
        self.eligible: IntArray = np.flatnonzero(run.partition.counts[:, 0])
        self._trusted: IntArray = np.array([run.partition.index(client) for client in run.strategy.trusted], np.int64)

    def plan(self, state: State) -> RoundPlan:
        """Returns the plan of the round after `state`; the same state gives the same plan, unless the cohort is
        secret or clients are away.

        Raises RoundFailedError if too few clients are available, WaitInterruptedError if the run is stopped meanwhile.
        """
        run, round_number = self.run, state.round + 1
        drawn = cohorts.select(
            run.cohort, self.eligible, self.ids, round_number, run.config.seed, secret=run.secret_cohort
        )
        # The clients that a strategy trusts take part in every round, drawn or not.
        wanted = np.union1d(drawn, self._trusted) if len(self._trusted) else drawn
        asked = self.availability.present(round_number, wanted)
        participation = run.devices.participation(round_number, asked)
        return RoundPlan(
            round=round_number,
            cohort=tuple(self.ids.take(participation.client_indices).tolist()),
            work=self._work(state, participation),
            numbers=participation.client_indices,
            chunks=tuple(self._chunks(participation)),
            devices=participation.outcomes,
            away=tuple(self.ids.take(np.setdiff1d(wanted, asked)).tolist()) if len(asked) < len(wanted) else (),
        )

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

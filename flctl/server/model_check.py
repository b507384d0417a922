"""Check of a run's checkpoints against the recorded aggregates: recomputes each model, without any client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flctl.algorithms.pipeline import begin_round
from flctl.algorithms.transform import Transform
from flctl.config.config import digest
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import IntegrityError
from flctl.executors.sequential import single_thread
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.availability import Availability
from flctl.server.round_plan import RoundPlanner
from flctl.server.state import State, initial_state
from flctl.server.step import server_step
from flctl.server.training import refuse_foreign, state_of
from flctl.types import Aggregate, Arrays, ClientId, RoundPlan, Work

__all__ = ["ModelOrigin", "RecordedRound", "check_models"]

ModelOrigin = Literal["recomputed", "bound", "unbound"]
_HINT = (
    "The checkpoint was changed after it was written, or this machine computes other numbers: compare `machine` and "
    "`versions` in run.json."
)


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """A finished round in a record that clients vouch for.

    `aggregate` is the released sum; None for a lost round. `sent` returns True for the work that the round's clients
    were sent.
    """

    round: int
    cohort: tuple[ClientId, ...]
    aggregate: Aggregate | None
    sent: Callable[[Work], bool]


def check_models(run: Run, directory: RunDirectory, rounds: Iterable[RecordedRound]) -> dict[int, ModelOrigin]:
    """Returns the round of each checkpoint, and how its model is tied to the recorded rounds, which begin at round 1.

    `recomputed`: the model is that which the aggregates give, from the initial weights on. `bound`: the server adds
    secret noise, so that its step cannot be repeated, and the clients of the next round were sent this model.
    `unbound`: the same, and no round followed.

    Raises IntegrityError if a checkpoint has another model or another state of the strategy than the aggregates give,
    if clients were sent other work than follows from the state before, if a round is missing, or if the configuration
    was changed; IncompatibleError for a checkpoint of another config, partition or version. If a transform charges a
    budget, the work of round 1 and of rounds that follow no checkpoint is not compared.
    """
    single_thread()
    if digest(run.config) != directory.facts["config_digest"]:
        raise IntegrityError(f"{directory.config_file} was changed since the run was made", hint="Restore it.")
    chain = _ModelChain(replace(run, replays=True), directory)
    for recorded in rounds:
        chain.follow(recorded)
    chain.finish()
    return chain.origins


class _ModelChain:
    """State of the server round by round. `state` is None after a step that cannot be repeated and has no
    checkpoint."""

    def __init__(self, run: Run, directory: RunDirectory) -> None:
        self.run, self.directory, self.model = run, directory, run.build_model()
        self.origins: dict[int, ModelOrigin] = {}
        self._saved = set(directory.checkpoints.rounds())
        self._planner = RoundPlanner(run, Availability(run, InProcessEngine()))
        # `begin` of such a transform charges a budget: it draws the run's name, or noise that was calibrated once.
        self._charges = any(type(one).begin is not Transform.begin for one in run.transforms.values())
        self._round = 0
        self.state: State | None = self._settled(initial_state(run, self.model.read()))

    def follow(self, recorded: RecordedRound) -> None:
        """Goes on by one round."""
        if recorded.round != self._round + 1:
            raise IntegrityError(f"there is no record of round {self._round + 1}")
        self._round = recorded.round
        if self.state is None:
            self.state = self._loaded()
            return
        begun = replace(self.state, transforms=begin_round(self.run, self._round, self.state.transforms)).frozen()
        plan = replace(self._planner.plan(begun), cohort=recorded.cohort)
        after = self._repeated(begun, plan, recorded.aggregate)
        self._check_work(recorded, plan)
        self.state = self._loaded() if after is None else self._settled(after)

    def finish(self) -> None:
        """Raises IntegrityError if there is a checkpoint of a later round."""
        later = [round_number for round_number in self._saved if round_number > self._round]
        if later:
            raise IntegrityError(f"round-{min(later):05d} is a checkpoint of a round without a record")

    def _repeated(self, state: State, plan: RoundPlan, aggregate: Aggregate | None) -> State | None:
        """Returns the state after the server's step; None if a second step gives another model."""
        if aggregate is None:
            return replace(state, round=plan.round)
        first, second = (server_step(self.run, self.model, state, aggregate, plan) for _ in range(2))
        return first if _equal(first.params, second.params) else None

    def _check_work(self, recorded: RecordedRound, plan: RoundPlan) -> None:
        before = self._round - 1
        if recorded.sent(plan.work):
            if self.origins.get(before) == "unbound":
                self.origins[before] = "bound"
        elif not self._charges or (before and before in self._saved):  # else the transforms' states are incomplete
            raise IntegrityError(
                f"the clients of round {self._round} were sent another model, or other work, than the state of round "
                f"{before} gives",
                hint=_HINT,
            )

    def _settled(self, state: State) -> State:
        """Returns a recomputed state, compared with its checkpoint. The transforms' states are those of the checkpoint
        if there is one: some hold the run's random name. The work of the next round depends on them, and is checked."""
        if state.round not in self._saved:
            return state
        saved = self._load(state.round)
        for what, found, expected in (
            ("model", saved.params, state.params),
            ("state of the strategy", saved.strategy, state.strategy),
        ):
            if not _equal(found, expected):
                raise IntegrityError(
                    f"the checkpoint of round {state.round} has another {what} than the recorded sums give", hint=_HINT
                )
        self.origins[state.round] = "recomputed"
        return saved

    def _loaded(self) -> State | None:
        if self._round not in self._saved:
            return None
        self.origins[self._round] = "unbound"
        return self._load(self._round)

    def _load(self, round_number: int) -> State:
        checkpoint = self.directory.checkpoints.load(round_number, self.model)
        refuse_foreign(self.run, self.directory, checkpoint)
        return state_of(checkpoint)


def _equal(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)

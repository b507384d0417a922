"""A strategy under test: its trial runs, made once, and the calls that were recorded in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from flctl import arrays
from flctl.algorithms.strategy import Strategy
from flctl.testing.calls import Call, Replay, recorder, replay
from flctl.testing.conformance import UnaskedError
from flctl.testing.runs import chosen
from flctl.testing.trained_subject import TrainedSubject
from flctl.testing.trial import Trial, TrialResult
from flctl.types import Aggregate, Arrays, ClientUpdate, Layout

__all__ = ["StrategySubject", "replaced"]

ALWAYS = ("init", "broadcast", "sends", "remembers", "first", "report", "step")
WHERE_OVERRIDDEN = ("adjust", "combine")
MAY_CHANGE = {"adjust": (0,)}
"""`adjust` may work in place on the gradient."""


class StrategySubject(TrainedSubject[Strategy]):
    """A strategy class with its options; runs are made when a check first asks for them."""

    def __init__(self, component: type[Strategy], options: Mapping[str, Any], trial: Trial, *, processes: bool) -> None:
        super().__init__(component, options, trial, processes=processes)
        self.failure: BaseException | None = None
        self._layout: Layout = {}

    @cached_property
    def named(self) -> str:
        """The override that names the strategy. Raises UnaskedError where it does not train."""
        self.required("step")
        return chosen("strategy", self.component, self.options, self.trial.directory)

    @cached_property
    def calls(self) -> Sequence[Call]:
        """The calls of three rounds of logistic regression; those before the failure where the run failed."""
        calls: list[Call] = []
        try:
            self._record(calls)
        except (Exception, SystemExit) as error:
            self.failure = error
        return calls

    def _record(self, calls: list[Call]) -> None:
        from flctl.server.training import train

        overridden = [name for name in WHERE_OVERRIDDEN if getattr(self.component, name) is not getattr(Strategy, name)]
        recording = recorder(self.component, [*ALWAYS, *overridden], calls)
        named = chosen("strategy", recording, self.options, self.trial.directory)
        run, directory = self.trial.prepare(named, "rounds=3", "engine=inprocess")
        self._layout = run.layout
        train(run, directory)

    @property
    def layout(self) -> Layout:
        """The layout of the trial's model. Raises UnaskedError where there was no run."""
        if not self.calls:
            raise UnaskedError
        return self._layout

    def of(self, method: str, most: int | None = None) -> Sequence[Call]:
        """The recorded calls of a method; `most` of them, spread over the run."""
        calls = [call for call in self.calls if call.method == method]
        if most is None or len(calls) <= most:
            return calls
        return [calls[round(index)] for index in np.linspace(0, len(calls) - 1, most)]

    def required(self, method: str) -> Sequence[Call]:
        """The recorded calls of a method. Raises UnaskedError where the trial failed before there was one."""
        found = self.of(method)
        if self.failure is not None or not found:
            raise UnaskedError
        return found

    @cached_property
    def replays(self) -> Sequence[Replay]:
        """Calls of each method made again."""
        methods = (*ALWAYS, *WHERE_OVERRIDDEN)
        chosen_calls = [call for method in methods for call in self.of(method, 3)]
        return [replay(self.make, call, MAY_CHANGE.get(call.method, ())) for call in chosen_calls]

    @cached_property
    def plain(self) -> TrialResult:
        """Two rounds in this process, over the plain sum."""
        return self.trial.train(self.named, "engine=inprocess")

    @cached_property
    def sent(self) -> Layout:
        """Layout of an update for the trial's model."""
        return self.make().sends(self.layout)

    def updates(self) -> list[ClientUpdate]:
        """One update for each client: the results of the recorded calls of `report` in the trial's first round."""
        reports = self.required("report")[: len(self.trial.partition.client_ids)]
        ids = self.trial.partition.client_ids
        return [
            ClientUpdate(str(client), call.result[0], float(call.result[1]))
            for client, call in zip(ids, reports, strict=False)
        ]

    def aggregate(self, updates: Sequence[ClientUpdate]) -> Aggregate:
        """Returns the aggregate of updates in a round: their sum, or the result of `combine`. Raises what `combine`
        raises."""
        strategy, counted = self.make(), [update for update in updates if update.weight > 0]
        if not counted:
            return Aggregate(arrays.zeros(self.sent), 0.0, 0)
        total = sum(update.weight for update in counted)
        if strategy.reads_each:
            combined = dict(strategy.combine(counted))
            rest = [name for name in self.sent if name not in combined]
            return Aggregate({**combined, **_sum(counted, rest, total)}, 1.0, len(counted))
        return Aggregate(_sum(counted, self.sent, 1.0), total, len(counted))

    def step(self, aggregate: Aggregate, call: Call | None = None) -> tuple[Arrays, Arrays]:
        """A step with another aggregate than in the recorded call (by default the last one of the trial)."""
        call = call or self.required("step")[-1]
        params, _, state, ctx = call.arguments
        return self.make().step(params, aggregate, state, ctx)


def _sum(updates: Sequence[ClientUpdate], names: Iterable[str], divisor: float) -> dict[str, Any]:
    """sum_k (w_k / divisor) a_k, by name; integer vectors stay integers."""
    return {name: np.sum([arrays.scale(u.arrays, u.weight / divisor)[name] for u in updates], axis=0) for name in names}


def replaced(update: ClientUpdate, factor: float) -> ClientUpdate:
    """The update with its vectors times a factor."""
    return dataclasses.replace(update, arrays=arrays.scale(update.arrays, factor))

"""An aggregator under test: vectors to sum, rounds without an engine, and its trial runs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from flctl.algorithms.aggregator import Aggregator
from flctl.errors import counted
from flctl.testing.conformance import UnaskedError
from flctl.testing.protocol import HONEST, Played, Script, play
from flctl.testing.runs import chosen
from flctl.testing.trained_subject import TrainedSubject
from flctl.testing.trial import CLIENTS, Trial, TrialResult
from flctl.testing.values import gap
from flctl.types import WEIGHT, Aggregate, Arrays, ClientId, Layout

__all__ = ["COHORT", "LAYOUT", "AggregatorSubject"]

COHORT = tuple(str(client) for client in range(CLIENTS))
LAYOUT: Layout = {"delta": 40, "buffers": 6, WEIGHT: 1}


class AggregatorSubject(TrainedSubject[Aggregator]):
    """An aggregator class with its options; runs are made when a check first asks for them."""

    def __init__(
        self,
        component: type[Aggregator],
        options: Mapping[str, Any],
        trial: Trial,
        tolerance: float,
        *,
        processes: bool,
    ) -> None:
        super().__init__(component, options, trial, processes=processes)
        self.tolerance = tolerance

    @cached_property
    def named(self) -> str:
        """The override that names the aggregator. Raises UnaskedError where it cannot sum."""
        _ = self.honest
        return chosen("aggregator", self.component, self.options, self.trial.directory)

    def vectors(self, clients: Collection[ClientId] = COHORT) -> dict[ClientId, Arrays]:
        """A premultiplied vector for each client: float32 normal numbers, and a weight that is no whole number."""
        rng = np.random.default_rng(11)
        made: dict[ClientId, Arrays] = {}
        for client in COHORT:
            weight = float(rng.uniform(5, 20))
            parts = {n: (weight * rng.normal(size=size)).astype(np.float32) for n, size in LAYOUT.items()}
            made[client] = {**parts, WEIGHT: np.array([weight])}
        return {client: made[client] for client in clients}

    def play(self, script: Script = HONEST, clients: Collection[ClientId] = COHORT) -> Played:
        """One round without an engine."""
        return play(self.make, self.vectors(clients), LAYOUT, script)

    @cached_property
    def first(self) -> Played:
        """A round in which everybody answers."""
        return self.play()

    @property
    def honest(self) -> Played:
        """Returns a round in which every client answered and that gave a sum. Raises UnaskedError without one."""
        try:
            played = self.first
        except Exception as error:
            raise UnaskedError from error
        if played.result is None or played.faults:
            raise UnaskedError
        return played

    @cached_property
    def plain(self) -> TrialResult:
        """A trial over the plain sum."""
        return self.trial.train("engine=inprocess")

    @cached_property
    def own(self) -> TrialResult:
        """A trial over this aggregator."""
        return self.trial.train(self.named, "engine=inprocess")

    def sum_of(self, clients: Collection[ClientId]) -> Aggregate:
        """The plain sum, in float64."""
        vectors = self.vectors(clients)
        names = [name for name in LAYOUT if name != WEIGHT]
        zero = {name: np.zeros(LAYOUT[name]) for name in LAYOUT}
        total = {n: zero[n] + sum(v[n].astype(np.float64) for v in vectors.values()) for n in LAYOUT}
        return Aggregate({name: total[name] for name in names}, float(total[WEIGHT][0]), len(vectors))

    def apart(self, found: Aggregate, expected: Aggregate) -> str | None:
        """Describes how an aggregate differs from the expected one by more than the tolerance; None if it does not."""
        if {n: v.shape for n, v in found.arrays.items()} != {n: v.shape for n, v in expected.arrays.items()}:
            return f"it has the vectors { {n: v.size for n, v in found.arrays.items()} }"
        if found.count != expected.count:
            return f"it counts {counted(found.count, 'client')}, expected {expected.count}"
        scale = max(float(np.abs(v).max(initial=0)) for v in self.sum_of(COHORT).arrays.values())
        worst = max(gap(found.arrays[name], expected.arrays[name]) for name in expected.arrays)
        if not worst <= self.tolerance * scale:
            return f"values differ by up to {worst:.3g}; the largest is {scale:.3g}, the tolerance {self.tolerance:g}"
        if not gap(found.weight, expected.weight) <= self.tolerance * self.sum_of(COHORT).weight:
            return f"its weight is {found.weight:.6g}, expected {expected.weight:.6g}"
        return None

    def unexplained(self, played: Played, sure: Collection[ClientId], perhaps: Collection[ClientId]) -> Iterator[str]:
        """Yields faults of a round whose sum must contain the clients `sure` and may contain any of `perhaps`; a
        refusal is correct."""
        yield from played.faults
        if played.result is None:
            return
        others = [client for client in perhaps if client not in sure]
        found = []
        for size in range(len(others) + 1):
            for some in itertools.combinations(others, size):
                differs = self.apart(played.result, self.sum_of([*sure, *some]))
                if differs is None:
                    return
                found.append(differs)
        yield f"the sum is not that of an allowed set of clients: {found[0]}"

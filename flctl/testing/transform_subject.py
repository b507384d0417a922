"""A transform under test: sample updates, and its trial runs, made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from flctl import arrays
from flctl.testing.calls import Call, Replay, replay
from flctl.testing.conformance import UnaskedError
from flctl.testing.runs import chosen
from flctl.testing.trial import Trial, TrialResult
from flctl.transform import ClientContext, ServerContext, Transform
from flctl.types import Aggregate, Arrays, ClientUpdate, Layout

__all__ = ["LAYOUTS", "TransformSubject"]

LAYOUTS: tuple[dict[str, int], ...] = ({"delta": 12}, {"delta": 7, "buffers": 3}, {"delta": 1})
Make = type[Transform]


class TransformSubject:
    """A transform class with its options; runs are made when a check first asks for them."""

    def __init__(self, component: Make, options: Mapping[str, Any], trial: Trial, processes: bool) -> None:
        self.component = component
        self.options = options
        self.trial = trial
        self.processes = processes
        self.notes: list[str] = []

    def make(self) -> Transform:
        """A new object with the options."""
        return self.component.from_options(dict(self.options))

    @cached_property
    def named(self) -> str:
        """The override that names the transform."""
        return chosen("transform", self.component, self.options, self.trial.directory)

    @cached_property
    def _outcome(self) -> TrialResult | BaseException:
        try:
            return self.trial.train(self.named, "engine=inprocess")
        except (Exception, SystemExit) as error:
            return error

    @property
    def failure(self) -> BaseException | None:
        """Why it does not train; None where it does."""
        return self._outcome if isinstance(self._outcome, BaseException) else None

    @property
    def plain(self) -> TrialResult:
        """Two rounds over the plain sum. Raises UnaskedError where it does not train."""
        if isinstance(self._outcome, BaseException):
            raise UnaskedError from self._outcome
        return self._outcome

    def state(self, layout: Layout) -> Arrays:
        """The state before the first round, for updates of a layout."""
        transform = self.make()
        return transform.init(transform.sends(layout))

    def on_client(self, update: ClientUpdate, seed: int = 0) -> ClientUpdate:
        """The client half, by a new object."""
        layout = arrays.layout_of(update.arrays)
        return self.make().on_client(update, self.client_context(layout, update.client_id, seed))

    def client_context(self, layout: Layout, client: str = "0", seed: int = 0) -> ClientContext:
        """What a client's half may look at in the first round."""
        return ClientContext(1, client, self.make().broadcast(self.state(layout)), np.random.default_rng(seed))

    def on_server(self, aggregate: Aggregate, layout: Layout, seed: int = 0) -> tuple[Aggregate, Arrays]:
        """The server half in the first round, by a new object."""
        ctx = ServerContext(1, max(aggregate.count, 1), np.random.default_rng(seed))
        return self.make().on_server(aggregate, self.state(layout), ctx)

    def sum_of(self, updates: Sequence[ClientUpdate]) -> Aggregate:
        """What an aggregator makes of updates that left their clients."""
        names = updates[0].arrays
        total = {name: np.sum([arrays.scale(u.arrays, u.weight)[name] for u in updates], axis=0) for name in names}
        return Aggregate(total, sum(update.weight for update in updates), len(updates))

    def nobody(self, layout: Layout) -> Aggregate:
        """The sum of no updates."""
        return Aggregate(arrays.zeros(self.make().sends(layout)), 0.0, 0)

    def sent(self, layout: Layout, count: int = 3) -> list[ClientUpdate]:
        """Sample updates after the client half."""
        return [self.on_client(update, seed) for seed, update in enumerate(samples(layout, count))]

    @cached_property
    def replays(self) -> Sequence[Replay]:
        """Calls of each method, made twice and more."""
        return [replay(self.make, call) for layout in LAYOUTS[:2] for call in self._calls(layout)]

    def _calls(self, layout: Layout) -> Iterator[Call]:
        state = self.state(layout)
        update = samples(layout, 1)[0]
        server = ServerContext(1, 3, np.random.default_rng(1))
        yield Call("sends", (layout,), None)
        yield Call("init", (self.make().sends(layout),), None)
        yield Call("broadcast", (state,), None)
        yield Call("factors", (np.array([0.5, 2.0, 8.0]), self.make().broadcast(state)), None)
        yield Call("on_client", (update, self.client_context(layout)), None)
        if self.make().reads_each:
            yield Call("on_arrival", (self.on_client(update), server), None)
        yield Call("on_server", (self.sum_of(self.sent(layout)), state, server), None)


def samples(layout: Layout, count: int, scale: float = 1.0) -> list[ClientUpdate]:
    """Updates of normal numbers, with the weights 8, 10, 12 ..."""
    rng = np.random.default_rng(7)
    return [
        ClientUpdate(
            str(client),
            {name: (scale * rng.normal(size=length)).astype(np.float32) for name, length in layout.items()},
            8.0 + 2 * client,
        )
        for client in range(count)
    ]

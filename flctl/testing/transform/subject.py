"""A transform under test: sample updates on their way through it, and its trial runs, made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from flctl import arrays
from flctl.algorithms.pipeline import Pipeline
from flctl.algorithms.transform import ClientContext, ServerContext, SharedContext, Transform
from flctl.testing.calls import Call, Replay, replay
from flctl.testing.conformance import UnaskedError
from flctl.testing.runs import chosen
from flctl.testing.trained_subject import TrainedSubject
from flctl.testing.trial import TrialResult
from flctl.types import Aggregate, Arrays, ClientUpdate, Layout, LocalWork, Work

__all__ = ["LAYOUTS", "TransformSubject", "samples"]

LAYOUTS: tuple[dict[str, int], ...] = ({"delta": 12}, {"delta": 7, "buffers": 3}, {"delta": 1})
_NAME, _SEED = "subject", 7
_ROUND = 1


class TransformSubject(TrainedSubject[Transform]):
    """A transform class with its options; runs are made when a check first asks for them."""

    def make(self) -> Transform:
        """Returns a new object with the options, for a model of which nothing is known."""
        return super().make().shaped({})

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

    def pipeline(self, layout: Layout) -> Pipeline:
        """A new object as the only transform, for updates of a layout."""
        transform = self.make()
        return Pipeline({_NAME: transform}, layout, _SEED, keep_individual=transform.judges_each)

    def state(self, layout: Layout) -> Arrays:
        """The state before the first round."""
        return self.make().init(layout)

    def broadcast(self, layout: Layout) -> Arrays:
        """The transform's broadcast in the first round."""
        return self.make().broadcast(self.state(layout))

    def shared(self, layout: Layout) -> SharedContext:
        """Context that both halves share in the first round."""
        return self.pipeline(layout).shared(_NAME, _ROUND, {_NAME: self.broadcast(layout)})

    def client_context(self, layout: Layout, client: str = "0", seed: int = 0) -> ClientContext:
        """Context of the client's half in the first round; its memory is all zeros."""
        memory = arrays.zeros(self.make().remembers(layout))
        rng = np.random.default_rng(seed)
        return ClientContext(_ROUND, client, self.broadcast(layout), rng, memory, self.shared(layout))

    def server_context(self, layout: Layout, asked: int, seed: int = 0) -> ServerContext:
        """Context of the server's half in the first round."""
        return ServerContext(_ROUND, asked, np.random.default_rng(seed), self.shared(layout))

    def on_client(self, update: ClientUpdate, seed: int = 0) -> ClientUpdate:
        """The client half, by a new object."""
        layout = arrays.layout_of(update.arrays)
        return self.make().on_client(update, self.client_context(layout, update.client_id, seed))

    def sent(self, layout: Layout, count: int = 3) -> list[ClientUpdate]:
        """Sample updates after the client half."""
        return [self.on_client(update, seed) for seed, update in enumerate(samples(layout, count))]

    def send(self, update: ClientUpdate, round_number: int, memory: Arrays) -> tuple[ClientUpdate, Arrays]:
        """Returns the update as it leaves the client in a round, and the memory that the client keeps."""
        layout = arrays.layout_of(update.arrays)
        pipeline = self.pipeline(layout)
        broadcasts = {_NAME: self.broadcast(layout)}
        work = Work(round_number, {}, {}, broadcasts, LocalWork(), pipeline.sent)
        return pipeline.send(update, work, memory)

    def arrive(self, sent: ClientUpdate, layout: Layout) -> ClientUpdate:
        """Returns an update as the server decodes it."""
        ctx = self.server_context(layout, 1)
        return self.pipeline(layout).arrive(sent, {_NAME: ctx.shared}, lambda name: ctx)

    def sum_of(self, sent: Sequence[ClientUpdate], layout: Layout) -> Aggregate:
        """The sum of updates that left their clients, as on_server is given it."""
        arrived = [self.arrive(update, layout) for update in sent]
        weighted = [arrays.weigh(update.arrays, update.weight) for update in arrived]
        total = {name: np.sum([vectors[name] for vectors in weighted], axis=0) for name in weighted[0]}
        return self._decoded(Aggregate(total, sum(update.weight for update in arrived), len(arrived)), layout)

    def nobody(self, layout: Layout) -> Aggregate:
        """The sum of no updates, as on_server is given it."""
        return self._decoded(Aggregate(arrays.zeros(self.pipeline(layout).arrived), 0.0, 0), layout)

    def _decoded(self, aggregate: Aggregate, layout: Layout) -> Aggregate:
        return self.pipeline(layout).decoded(aggregate, _NAME, self.shared(layout))

    def on_server(self, aggregate: Aggregate, layout: Layout, seed: int = 0) -> tuple[Aggregate, Arrays]:
        """The server half in the first round, by a new object."""
        ctx = self.server_context(layout, max(aggregate.count, 1), seed)
        return self.make().on_server(aggregate, self.state(layout), ctx)

    @cached_property
    def replays(self) -> Sequence[Replay]:
        """Calls of each method, made twice and more."""
        return [replay(self.make, call) for layout in LAYOUTS[:2] for call in self._calls(layout)]

    def _calls(self, layout: Layout) -> Iterator[Call]:
        state, update, sent = self.state(layout), samples(layout, 1)[0], self.sent(layout)
        client, server = self.client_context(layout), self.server_context(layout, 3)
        for method in ("sends", "init", "remembers"):
            yield Call(method, (layout,), None)
        yield Call("broadcast", (state,), None)
        yield Call("factors", (np.array([0.5, 2.0, 8.0]), client.broadcast), None)
        yield Call("weigh", (np.array([0.0, 1.0, 8.0]),), None)
        yield Call("on_client", (update, client), None)
        if self.make().judges_each:
            yield Call("on_arrival", (sent[0], server), None)
        if self.make().encodes:
            yield Call("decode", (sent[0].arrays, client.shared), None)
        if self.make().remembers(layout):
            arrived = self.make().decode(sent[0].arrays, client.shared)
            yield Call("keeps", (update, sent[0], arrived, client), None)
        yield Call("on_server", (self.sum_of(sent, layout), state, server), None)


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

"""The base class of transforms: layers around the sum, such as clipping, noise and compression."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from flctl import arrays, seeds
from flctl.algorithms.local_steps import LocalSteps, StepsContext
from flctl.component import Component
from flctl.types import Aggregate, Arrays, ClientId, ClientUpdate, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["ClientContext", "ServerContext", "Shapes", "SharedContext", "StartContext", "Transform"]

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Vector of the model -> the shapes of the tensors that lie in it end to end."""


@dataclass(frozen=True, slots=True)
class SharedContext:
    """What the server and all clients of a round know alike of one component: the round, the layout that the
    component is given, what it broadcast, and a seed."""

    round: int = 1
    layout: Layout = field(default_factory=dict)
    broadcast: Arrays = field(default_factory=dict)
    seed: int = 0

    def rng(self, *names: str | int) -> np.random.Generator:
        """A new generator for the stream that `names` address: the same numbers on both sides, in this round."""
        return seeds.rng(self.seed, *names)


@dataclass(frozen=True, slots=True)
class ClientContext:
    """Where a client's half runs: the round, the client, what this component broadcast, and a named generator
    (reproducible; privacy takes `flctl.secure_rng()`). `memory` is what it kept of this client, as `remembers` says;
    zeros at first. `work` is what the client was asked, for an aggregator in a phase that trains."""

    round: int
    client_id: ClientId
    broadcast: Arrays
    rng: np.random.Generator
    memory: Arrays = field(default_factory=dict)
    shared: SharedContext = field(default_factory=SharedContext)
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Where a server's half runs: the round, how many clients were asked, and a named generator."""

    round: int
    asked: int
    rng: np.random.Generator
    shared: SharedContext = field(default_factory=SharedContext)


@dataclass(frozen=True, slots=True)
class StartContext:
    """Where a round starts, in the server's process: its number, and the run."""

    round: int
    run: RunInfo


class Transform(Component):
    """A layer that every update passes: on the client in config order, on the server in reverse.

    State is named flat vectors and part of the checkpoint. One object serves all clients: keep nothing on `self`.
    """

    linear: ClassVar[bool] = False
    """True: `decode` is linear, so that it is applied once, to the sum of what clients send; that works where the
    server sees nothing else. False: the server decodes each client's message before it is added."""

    bounds_clients: ClassVar[bool] = False
    """True: a client moves the sum by a bounded length at most. A client whose training diverges then counts as zeros,
    as its update would: an error that names it would be a release without noise."""

    noised_by_clients: ClassVar[bool] = False
    """True: updates are private when they leave a client. Its metrics (loss, rows, steps) then stay with the client,
    as no noise covers them."""

    def shaped(self, shapes: Shapes) -> Self:
        """Both sides, once, before anything else: this transform for a model of such tensors."""
        return self

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError where this transform cannot keep its promise."""

    def init(self, layout: Layout) -> Arrays:
        """Server, once: the state before the first round, for updates of this layout, as `sends` is given it."""
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """Server, each round: vectors for the cohort, in `ctx.broadcast`."""
        return {}

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        """Server, before anything else of a round: the state that it starts with. Raises PrivacyBudgetError to end the
        run before this round, with its checkpoint kept."""
        return state

    def tells(self, state: Arrays, run: RunInfo, finished: bool) -> Mapping[str, float | str]:
        """Server, after each round: what the round's line says of it, by name; `finished`: what the summary says."""
        return {}

    def sends(self, layout: Layout) -> Layout:
        """Both sides: the update's layout after this transform."""
        return layout

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: name -> length of what each client keeps from one of its rounds to its next (float32), for
        updates of this layout."""
        return {}

    def steps(self, ctx: StepsContext) -> LocalSteps | None:
        """Client, before each stage of its local training: how it makes its local steps. Overriding it MEANS "I make
        the local steps of this run": each row's own gradient is then found, one client after the other."""
        return None

    def factors(self, norms: npt.NDArray[np.float64], broadcast: Arrays) -> npt.NDArray[np.float64]:
        """Client, in the place of `on_client`: what updates with these L2 norms [K], each over all its vectors
        together, are multiplied by, [K]. Overriding it MEANS "I look at nothing but the norm": norms of many
        clients are known without building their updates. `broadcast` is as `ctx.broadcast`."""
        return np.ones_like(norms)

    def weigh(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Client, beside `factors`: what updates of these weights [K] count with, [K]."""
        return weights

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """Client, after the strategy's report, in config order; this default does what `factors` and `weigh` say."""
        if not self.scales:
            return update
        update = dataclasses.replace(update, weight=float(self.weigh(np.array([update.weight], np.float64))[0]))
        factor = float(self.factors(np.array([arrays.norm(update.arrays)]), ctx.broadcast)[0])
        return dataclasses.replace(update, arrays=arrays.scale(update.arrays, factor)) if factor != 1 else update

    def decode(self, vectors: Arrays, ctx: SharedContext) -> Arrays:
        """Both sides: vectors of the layout `ctx.layout`, from what `on_client` made of it. Overriding it MEANS "what
        I send is a code". Who sends a code that is none is told by a ProtocolError."""
        return vectors

    def keeps(self, given: ClientUpdate, sent: ClientUpdate, arrived: Arrays, ctx: ClientContext) -> Arrays:
        """Client, when all transforms are through: what it remembers, laid out as `remembers` says. `given` is what
        `on_client` was called with, `sent` what it returned, and `arrived` what the server will take for `given`
        once it has decoded what all transforms together made of it."""
        return {}

    def on_arrival(self, update: ClientUpdate, ctx: ServerContext) -> ClientUpdate:
        """Server, per client, in reverse order. Overriding it MEANS "I read each client's update"."""
        return update

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Server, once a round, on the sum, decoded where it was a code, in reverse order."""
        return aggregate, state

    @property
    def secret_cohort(self) -> bool:
        """Whether nobody may foresee who takes part: the operating system then draws cohorts, not the seed."""
        return False

    @property
    def makes_steps(self) -> bool:
        """Whether it makes the clients' local steps."""
        return type(self).steps is not Transform.steps

    @property
    def encodes(self) -> bool:
        """Whether what it sends must be decoded."""
        return type(self).decode is not Transform.decode

    @property
    def reads_each(self) -> bool:
        """Whether the server must see what each client sends by itself, to look at it or to decode it."""
        return self.judges_each or self.decodes_each

    @property
    def decodes_each(self) -> bool:
        """Whether the server must decode what each client sends before it can be added up."""
        return self.encodes and not self.linear

    @property
    def judges_each(self) -> bool:
        """Whether it looks at each client's update when that arrives."""
        return type(self).on_arrival is not Transform.on_arrival

    @property
    def scales(self) -> bool:
        """Whether all that a client does is to multiply its update by a factor of its norm."""
        return type(self).factors is not Transform.factors and type(self).on_client is Transform.on_client

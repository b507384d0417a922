"""The base class of transforms: processing applied to updates, such as clipping, noise and compression."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.local_steps import LocalSteps, StepsContext
from flctl.component import Component
from flctl.types import Aggregate, Arrays, ClientId, ClientUpdate, FloatArray, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["ClientContext", "Notice", "ServerContext", "Shapes", "SharedContext", "StartContext", "Transform"]

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Vector of the model -> the shapes of the tensors that lie in it end to end."""


@dataclass(frozen=True, slots=True)
class SharedContext:
    """Values of one component that the server and all clients of a round share: the round, the layout of its input, its
    broadcast, and a seed."""

    round: int = 1
    layout: Layout = field(default_factory=dict)
    broadcast: Arrays = field(default_factory=dict)
    seed: int = 0

    def rng(self, *names: str | int) -> np.random.Generator:
        """Returns a new generator for the stream that `names` address: the same numbers on both sides, in this
        round."""
        return seeds.rng(self.seed, *names)


@dataclass(frozen=True, slots=True)
class ClientContext:
    """Context of the client half: the round, the client, this component's broadcast, and a named, reproducible
    generator (randomness that privacy rests on comes from `flctl.secure_rng()`).

    `memory` is laid out as in `remembers`, zeros at first. `work` holds the client's instructions, for an aggregator in
    a phase that trains.
    """

    round: int
    client_id: ClientId
    broadcast: Arrays
    rng: np.random.Generator
    memory: Arrays = field(default_factory=dict)
    shared: SharedContext = field(default_factory=SharedContext)
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Context of the server half: the round, the number of clients asked, and a named generator."""

    round: int
    asked: int
    rng: np.random.Generator
    shared: SharedContext = field(default_factory=SharedContext)


@dataclass(frozen=True, slots=True)
class StartContext:
    """Start of a round on the server: its number, and the run."""

    round: int
    run: RunInfo


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before a run starts. `confirm`: the run starts only if the user agrees."""

    message: str
    confirm: bool = False


class Transform(Component):
    """Processing applied to every update: on the client in config order, on the server in reverse.

    State is named flat vectors and part of the checkpoint. One object serves all clients: keep nothing on `self`.

    >>> import numpy as np
    >>> import flctl
    >>> class Halve(flctl.Transform):
    ...     name = "halve"
    ...     def factors(self, norms, broadcast):
    ...         return np.full_like(norms, 0.5)
    >>> ctx = flctl.ClientContext(round=1, client_id="c1", broadcast={}, rng=flctl.rng(0, "example"))
    >>> update = flctl.ClientUpdate("c1", {"delta": np.array([2.0, 4.0])}, weight=10.0)
    >>> Halve().on_client(update, ctx).arrays["delta"].tolist()
    [1.0, 2.0]
    """

    skips_rounds: ClassVar[bool] = True
    """True: the state after `begin` also serves the next round if this one gives no sum. False: a round without a sum
    ends the run, because later rounds build on what `on_server` adds to each."""

    linear: ClassVar[bool] = False
    """True: `decode` is linear, so it is applied once, to the sum of the codes; this works if the server sees only the
    sum. False: the server decodes each client's message before it is added."""

    whole: ClassVar[bool] = False
    """True: it sends whole numbers of a lattice. An aggregator that hides sums them only if all clients have one
    weight, because few values under different weights can be told apart in a sum."""

    bounds_clients: ClassVar[bool] = False
    """True: a client's contribution to the sum is bounded. A client whose training diverges then counts as zeros, as
    its update would: an error that names the client would be a release without noise."""

    noised_by_clients: ClassVar[bool] = False
    """True: updates are private when they leave a client. A client's metrics (loss, rows, steps) are then not sent,
    because no noise covers them."""

    def shaped(self, shapes: Shapes) -> Self:
        """Both sides, once, before anything else: returns this transform for a model with these tensors."""
        return self

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError if this transform cannot run with the other components."""

    def notices(self, run: RunInfo) -> Sequence[Notice]:
        """Returns the notices that `flctl train` shows before a new run; those with `confirm` need `--yes`."""
        return ()

    def init(self, layout: Layout) -> Arrays:
        """Server, once: returns the state before the first round. `layout` is that of the input, as `sends` gets it."""
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """Server, each round: returns vectors for the cohort, in `ctx.broadcast`."""
        return {}

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        """Server, first in each round: returns the state that the round starts with. Raises PrivacyBudgetError to end
        the run before this round; its checkpoint is kept."""
        return state

    def tells(self, state: Arrays, run: RunInfo, finished: bool) -> Mapping[str, float | str]:  # noqa: FBT001
        """Server, after each round: returns named values for the round's report; for the summary if `finished`."""
        return {}

    def sends(self, layout: Layout) -> Layout:
        """Both sides: returns the layout of an update after this transform."""
        return layout

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: returns the layout (name -> length, float32) of what each client keeps from one of its rounds to
        the next, for updates of this layout."""
        return {}

    def steps(self, ctx: StepsContext) -> LocalSteps | None:
        """Client, before each stage of its local training: returns its local steps. Overriding it MEANS "I make the
        local steps of this run": per-example gradients are then computed, one client after the other."""
        return None

    def factors(self, norms: FloatArray, broadcast: Arrays) -> FloatArray:
        """Client, in place of `on_client`: returns the factors [K] for updates of L2 norms `norms` [K], each over all
        vectors together. Overriding it MEANS "I look at nothing but the norm": the norms of many clients are known
        without building their updates. `broadcast` is the same as `ctx.broadcast`."""
        return np.ones_like(norms)

    def weigh(self, weights: FloatArray) -> FloatArray:
        """Client, beside `factors`: returns the weights [K] that updates count with, from their weights [K] so far."""
        return weights

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """Client, after the strategy's report, in config order: returns the update. The default applies `factors` and
        `weigh`."""
        if not self.scales:
            return update
        update = dataclasses.replace(update, weight=float(self.weigh(np.array([update.weight], np.float64))[0]))
        factor = float(self.factors(np.array([arrays.norm(update.arrays)]), ctx.broadcast)[0])
        return dataclasses.replace(update, arrays=arrays.scale(update.arrays, factor)) if factor != 1 else update

    def decode(self, vectors: Arrays, ctx: SharedContext) -> Arrays:
        """Both sides: returns vectors of the layout `ctx.layout` from the code that `on_client` made. Overriding it
        MEANS "my output is a code". Raises ProtocolError if the message is not a valid code."""
        return vectors

    def keeps(self, given: ClientUpdate, sent: ClientUpdate, arrived: Arrays, ctx: ClientContext) -> Arrays:
        """Client, after all transforms: returns its memory, laid out as in `remembers`. `given` is the input of
        `on_client`, `sent` its output, and `arrived` is `given` as the server reconstructs it from the codes of all
        transforms."""
        return {}

    def on_arrival(self, update: ClientUpdate, ctx: ServerContext) -> ClientUpdate:
        """Server, per client, in reverse order. Overriding it MEANS "I read each client's update"."""
        return update

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Server, once a round, in reverse order: processes the sum, decoded if it was a code."""
        return aggregate, state

    @property
    def secret_cohort(self) -> bool:
        """True if cohorts must be unpredictable: they are then drawn by the operating system, not from the seed."""
        return False

    @property
    def makes_steps(self) -> bool:
        """True if it makes the clients' local steps."""
        return type(self).steps is not Transform.steps

    @property
    def encodes(self) -> bool:
        """True if its output must be decoded."""
        return type(self).decode is not Transform.decode

    @property
    def reads_each(self) -> bool:
        """True if the server must see each client's message, to inspect it or to decode it."""
        return self.judges_each or self.decodes_each

    @property
    def decodes_each(self) -> bool:
        """True if the server must decode each client's message before it can be added up."""
        return self.encodes and not self.linear

    @property
    def judges_each(self) -> bool:
        """True if it inspects each client's update on arrival."""
        return type(self).on_arrival is not Transform.on_arrival

    @property
    def scales(self) -> bool:
        """True if its client half only multiplies an update by a factor of the update's norm."""
        return type(self).factors is not Transform.factors and type(self).on_client is Transform.on_client

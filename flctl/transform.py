"""The base class of transforms: layers around the sum, such as clipping, noise and compression."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl import arrays
from flctl.component import Component
from flctl.types import Aggregate, Arrays, ClientId, ClientUpdate, Layout

if TYPE_CHECKING:
    from flctl.run import Run

__all__ = ["ClientContext", "ServerContext", "Transform"]


@dataclass(frozen=True, slots=True)
class ClientContext:
    """Where a client's half runs: the round, the client, what this component broadcast, and a named generator
    (reproducible; privacy takes `flctl.secure_rng()`)."""

    round: int
    client_id: ClientId
    broadcast: Arrays
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Where a server's half runs: the round, how many clients were asked, and a named generator."""

    round: int
    asked: int
    rng: np.random.Generator


class Transform(Component):
    """A layer that every update passes: on the client in config order, on the server in reverse.

    State is named flat vectors and part of the checkpoint. One object serves all clients: keep nothing on `self`.
    """

    def check(self, run: Run) -> None:
        """Before the run: raises IncompatibleError where this transform cannot keep its promise."""

    def init(self, layout: Layout) -> Arrays:
        """Server, once: the state before the first round; `layout` is the update's."""
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """Server, each round: vectors for the cohort, in `ctx.broadcast`."""
        return {}

    def sends(self, layout: Layout) -> Layout:
        """Both sides: the update's layout after this transform."""
        return layout

    def factors(self, norms: npt.NDArray[np.float64], broadcast: Arrays) -> npt.NDArray[np.float64]:
        """Client, in the place of `on_client`: what updates with these L2 norms [K], each over all its vectors
        together, are multiplied by, [K]. Overriding it MEANS "I look at nothing but the norm": norms of many
        clients are known without building their updates. `broadcast` is as `ctx.broadcast`."""
        return np.ones_like(norms)

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """Client, after the strategy's report, in config order; this default does what `factors` says."""
        if not self.scales:
            return update
        factor = float(self.factors(np.array([arrays.norm(update.arrays)]), ctx.broadcast)[0])
        return dataclasses.replace(update, arrays=arrays.scale(update.arrays, factor)) if factor != 1 else update

    def on_arrival(self, update: ClientUpdate, ctx: ServerContext) -> ClientUpdate:
        """Server, per client, in reverse order. Overriding it MEANS "I read each client's update"."""
        return update

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Server, once a round, on the sum, in reverse order."""
        return aggregate, state

    @property
    def reads_each(self) -> bool:
        """Whether the server must see each client's update by itself."""
        return type(self).on_arrival is not Transform.on_arrival

    @property
    def scales(self) -> bool:
        """Whether all that a client does is to multiply its update by a factor of its norm."""
        return type(self).factors is not Transform.factors and type(self).on_client is Transform.on_client

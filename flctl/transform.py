"""The base class of transforms: layers around the sum, such as clipping, noise and compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """Client, after the strategy's report, in config order."""
        return update

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

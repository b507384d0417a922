"""Components and models that trial runs put around the one under test. Runs name them by this file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from flctl.algorithms.aggregators.plain import PlainAggregator
from flctl.algorithms.transform import ClientContext, Transform
from flctl.engines.inprocess import InProcessEngine
from flctl.types import Arrays, ClientId, ClientUpdate, Failure, Reply, Request

if TYPE_CHECKING:
    import torch

    from flctl.models.model import DataSpec

__all__ = ["Hiding", "Losing", "Remembering", "Trap", "here", "normed"]


def here(name: str) -> str:
    """Returns the name by which a configuration refers to an object of this file."""
    return f"{Path(__file__).as_posix()}:{name}"


def normed(data: DataSpec) -> torch.nn.Module:
    """A network with buffers: batch normalisation between two linear layers."""
    from torch import nn

    width = 5
    return nn.Sequential(
        nn.Flatten(), nn.Linear(data.shape[0], width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, data.outputs)
    )


class Hiding(PlainAggregator):
    """The plain sum, declared as hiding: the server may learn nothing else."""

    name = "hiding"
    hides: ClassVar[bool] = True
    transparent: ClassVar[bool] = False


class Remembering(PlainAggregator):
    """The plain sum in two phases; a client answers with what it remembers, and remembers what it was told."""

    name = "remembering"
    transparent: ClassVar[bool] = False

    def client(self, memory: bytes, message: bytes, vector: Arrays | None, ctx: ClientContext) -> tuple[bytes, bytes]:
        return message, memory if vector is None else super().client(b"", message, vector, ctx)[1]


class Trap(Transform):
    """Leaves updates unchanged, and makes some clients fail as `ways` says: raise, exit, or sleep for `seconds`."""

    name = "trap"

    class Config(Transform.Config):
        """Client -> what is done to it; and for how long."""

        ways: dict[str, Literal["raise", "exit", "sleep"]] = Field(default_factory=dict)
        seconds: float = 0.0

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        way = self.config.ways.get(ctx.client_id)
        if way == "raise":
            raise RuntimeError("raised on purpose")
        if way == "exit":
            sys.exit(3)
        if way == "sleep":
            time.sleep(self.config.seconds)
        return update


class Losing(InProcessEngine):
    """In this process; the clients in `lost` never answer, all of them where it holds `*`."""

    name = "losing"
    gathers: ClassVar[bool] = False

    class Config(InProcessEngine.Config):
        """`lost`: ids, from the round `since` on."""

        lost: tuple[str, ...] = ()
        since: int = 1

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        for client, answer in super().exchange(requests, deadline):
            gone = (client in self.config.lost or "*" in self.config.lost) and requests[
                client
            ].round >= self.config.since
            yield client, Failure("deadline", "lost on purpose") if gone else answer

    @contextmanager
    def open(self, run: Any) -> Iterator[Losing]:
        with super().open(run):
            yield self

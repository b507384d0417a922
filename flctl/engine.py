"""The base class of engines: where clients run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self

from flctl.component import Component
from flctl.types import ClientId, Failure, Reply, Request

if TYPE_CHECKING:
    from flctl.run import Run

__all__ = ["Engine"]


class Engine(Component):
    """Carries requests to clients and their replies back; `exchange` is the one primitive."""

    def open(self, run: Run) -> AbstractContextManager[Self]:
        """Starts what the engine needs; leaving the context ends it, whatever happened inside."""
        raise NotImplementedError

    def clients(self) -> Sequence[ClientId]:
        """All clients that can be asked, in the partition's order."""
        raise NotImplementedError

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        """Sends each client its request and yields each answer once, in any order.

        A client that raises, dies, or is not back within `deadline` seconds of starting is yielded as a `Failure`.
        """
        raise NotImplementedError

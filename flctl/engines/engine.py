"""The base class of engines: where clients run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy.typing as npt

from flctl.component import Component
from flctl.types import ClientId, Failure, Gathered, IntArray, Reply, Request, Work

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.run.run import Run

__all__ = ["Engine", "Lost", "MemoryUpkeep"]


class Engine(Component):
    """Carries requests to clients and their replies back; `exchange` is the one primitive.

    >>> import flctl
    >>> class Offline(flctl.Engine):
    ...     name = "offline"
    ...     def exchange(self, requests, deadline=None):
    ...         for client_id in requests:
    ...             yield client_id, flctl.Failure("timeout", "no client is connected")
    >>> dict(Offline().exchange({"c1": None}))["c1"].kind
    'timeout'
    """

    gathers: ClassVar[bool] = False
    """True if `gather` works too, so that the clients of a chunk can send one reply together."""

    def check(self, run: Run) -> None:
        """Raises FlctlError if the engine cannot start the run. Called before anything of a new run is written."""

    def open(self, run: Run) -> AbstractContextManager[Self]:
        """Starts what the engine needs; leaving the context ends it, whatever happened inside."""
        raise NotImplementedError

    def clients(self) -> Sequence[ClientId]:
        """All clients that can be asked, in the partition's order."""
        raise NotImplementedError

    def available(self) -> Collection[ClientId] | None:
        """Returns the clients that can be asked now; None if that is all of them, always."""
        return None

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        """Sends each client its request and yields each answer once, in any order.

        A client that raises, dies, or is not back within `deadline` seconds of starting is yielded as a `Failure`.
        """
        raise NotImplementedError

    def gather(
        self,
        work: Work,
        chunks: Sequence[IntArray],
        keep_individual: bool,  # noqa: FBT001
        deadline: float | None = None,
    ) -> Iterator[tuple[int, Gathered | Lost]]:
        """Trains each chunk of clients and yields (index in `chunks`, the chunk's reply) once, in any order.

        `keep_individual` asks for each client's vectors rather than for their sum. A chunk whose process died, that was
        not back within `deadline` seconds, or for which there was no memory, is yielded as `Lost`.
        """
        raise NotImplementedError

    def cancel(self, clients: Collection[ClientId]) -> None:
        """Tells clients that their replies are not awaited any more: the phase ended without them, or the round failed.

        By default, nothing: what clients on this machine do ends with the exchange.
        """

    def enrolled(self, aggregator: Aggregator) -> Aggregator:
        """Returns the aggregator with the identities of the clients, after `open`. Clients on this machine have none,
        so it is the same one."""
        return aggregator

    def client_memory(self, run: Run) -> MemoryUpkeep:
        """Returns the server's access to client memory, which lies in the run's directory.

        An engine whose clients keep their memory elsewhere overrides this and passes each call on to them.
        """
        from flctl.client.memory_store import MemoryStore

        return MemoryStore(run.memory_directory, run.partition.clients, run.memory_layout)


class MemoryUpkeep(Protocol):
    """The server's half of client memory: keeps what clients remember in step with the model and its checkpoints."""

    def retract(self, clients: npt.ArrayLike, round_number: int) -> None:
        """Drops what clients, by index, wrote in a round in which their reply was not used."""

    def sync(self) -> None:
        """Puts on disk what was written, before the checkpoint that rests on it."""

    def settle(self, round_number: int) -> None:
        """Drops what the checkpoint of round `round_number`, which is on disk, made superfluous."""

    def forget_after(self, round_number: int) -> None:
        """Drops what rounds after `round_number` wrote: training goes on from its checkpoint.

        Raises IncompatibleError if the memory as of `round_number` is gone.
        """


@dataclass(frozen=True, slots=True)
class Lost:
    """A chunk without a reply. The server requests it again in halves, to find the client at fault."""

    failure: Failure

"""The base class of aggregators, and the plain sum: how vectors that lie on different clients become their sum."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from flctl.algorithms.transform import ClientContext
from flctl.component import Component
from flctl.types import Aggregate, Arrays, ClientId, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["AggregationContext", "Aggregator", "Phase", "Total"]

Replies = Iterable[tuple[ClientId, bytes]]


class Total(Protocol):
    """Where an aggregator that sees each vector puts them; adds them up in the order they come."""

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Adds the vector in a client's message; one that is malformed or not finite makes the client a failed one."""

    def aggregate(self) -> Aggregate:
        """The sum of what was added."""


def _unheard(note: str) -> None:
    """Where nobody keeps notes."""


@dataclass(frozen=True, slots=True)
class AggregationContext:
    """One round as the aggregator's server half sees it. `layout` is the vector's, the weight included. `work` is what
    the clients are asked in the phase that trains; `note` puts a sentence into the round's report. `deadline` is in
    seconds: who answers later counts as absent."""

    round: int
    cohort: tuple[ClientId, ...]
    layout: Layout
    total: Callable[[], Total]
    work: Work | None = None
    note: Callable[[str], None] = _unheard
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One exchange: a message for each client, and whether the clients train before they answer it."""

    messages: Mapping[ClientId, bytes]
    trains: bool


class Aggregator(Component):
    """Sums vectors across clients; exactly one per run.

    The server half is a sans-IO generator: it yields a `Phase` and is sent the replies as an iterator of
    (client, message) in cohort order; a client that is absent dropped out. It returns the `Aggregate`, or raises
    ProtocolError, after which nothing of the round is used. The client half is a pure step with memory as bytes,
    because another process may take the next message.
    """

    hides: ClassVar[bool] = False
    """True: the server learns the sum and nothing else, so metrics and single updates stay with the clients."""

    transparent: ClassVar[bool] = False
    """True: a client's reply is its vector and nothing more, so that vectors may be added up where clients train."""

    @property
    def ring(self) -> int | None:
        """Bits w of the ring in which vectors whose names end in `flctl.RING` are added up: their sum comes out modulo
        2^w, within [-2^(w-1), 2^(w-1)). None: whole numbers are added up exactly, as int64."""
        return None

    @property
    def survivors(self) -> int:
        """The fewest clients whose sum is ever made known, for which the clients see themselves; 0: nobody does."""
        return 0

    def rounding(self, run: RunInfo) -> float:
        """How much further, in L2, one client's update moves the sum of a round than its length says, at most, because
        vectors are rounded on their way; 0 where they are added up as they are."""
        return 0.0

    def placed(self, run: RunInfo) -> Self:
        """Both sides, once, before `check`: this aggregator for `run`. What must outlive a process it may keep in a
        directory of its own under `run.directory`, but not before a round is played."""
        return self

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError where this aggregator cannot keep its promise."""

    def server(self, ctx: AggregationContext) -> Generator[Phase, Replies, Aggregate]:
        """Server, each round."""
        raise NotImplementedError

    def client(self, memory: bytes, message: bytes, vector: Arrays | None, ctx: ClientContext) -> tuple[bytes, bytes]:
        """Client, each phase: (memory for the round's next phase, reply). `vector` is None unless the phase trains."""
        raise NotImplementedError

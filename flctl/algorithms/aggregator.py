"""The base class of aggregators: how vectors on different clients become their sum."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from flctl.algorithms.transform import ClientContext
from flctl.component import Component
from flctl.types import Aggregate, Arrays, ClientId, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_identities import RunIdentities
    from flctl.algorithms.run_info import RunInfo

__all__ = ["AggregationContext", "Aggregator", "Phase", "Total"]

Replies = Iterable[tuple[ClientId, bytes]]


class Total(Protocol):
    """Accumulator for an aggregator that sees each client's vectors in the clear. Adds them in order of arrival."""

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Adds the vectors in a client's message. Records the client as failed if they are malformed or not finite."""

    def aggregate(self) -> Aggregate:
        """Returns the sum of the vectors added so far."""


def _unheard(note: str) -> None:
    """Discards a note; the default outside a run."""


@dataclass(frozen=True, slots=True)
class AggregationContext:
    """One round as the server half of an aggregator sees it.

    `layout` is that of each client's vectors, the weight included. `work` holds the instructions of the phase that
    trains. `note` adds a sentence to the round's report. `deadline` is in seconds: a client that answers later counts
    as dropped out. `fresh(n)` returns n random bytes, such as a session's nonce: an aggregator draws them here and
    nowhere else, so that a run that records them sends the same messages when it repeats a round after a crash.
    """

    round: int
    cohort: tuple[ClientId, ...]
    layout: Layout
    total: Callable[[], Total]
    work: Work | None = None
    note: Callable[[str], None] = _unheard
    deadline: float | None = None
    fresh: Callable[[int], bytes] = os.urandom


@dataclass(frozen=True, slots=True)
class Phase:
    """One exchange: a message for each client. `trains` is True if the clients train before they answer."""

    messages: Mapping[ClientId, bytes]
    trains: bool


class Aggregator(Component):
    """Sums vectors across clients; exactly one per run.

    The server half is a sans-IO generator: it yields a `Phase` and is sent the replies as an iterator of (client,
    message) in cohort order. A client missing from the replies dropped out. The generator returns the `Aggregate`, or
    raises ProtocolError, after which no result of the round is used; after RoundLostError the run continues with the
    next round. The client half is a pure step with its memory as
    bytes, because another process may take the next message.

    >>> import numpy as np
    >>> import flctl
    >>> class InTheClear(flctl.Aggregator):
    ...     name = "in-the-clear"
    ...     def server(self, ctx):
    ...         total = ctx.total()
    ...         replies = yield flctl.Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
    ...         for client_id, message in replies:
    ...             total.add(client_id, message)
    ...         return total.aggregate()
    ...     def client(self, memory, message, vector, ctx):
    ...         return b"", flctl.pack("vector", arrays=vector)
    >>> ctx = flctl.ClientContext(round=1, client_id="c1", broadcast={}, rng=flctl.rng(0, "example"))
    >>> memory, reply = InTheClear().client(b"", b"", {"delta": np.array([1.5, 2.0], np.float32)}, ctx)
    >>> flctl.unpack(reply, "vector").arrays["delta"].tolist()
    [1.5, 2.0]
    """

    hides: ClassVar[bool] = False
    """True: the server learns the sum and nothing else, so metrics and single updates stay with the clients."""

    transparent: ClassVar[bool] = False
    """True: a client's reply is its vectors in the clear, so a worker may add up the vectors of the clients that it
    trains."""

    answers_once: ClassVar[bool] = False
    """True: a client answers each round once, so a round with a sum is never repeated: a checkpoint follows each."""

    @property
    def ring(self) -> int | None:
        """Word size w, in bits, of the ring in which vectors whose names end in `flctl.RING` are added up. Their sum is
        taken modulo 2^w and lies in [-2^(w-1), 2^(w-1)). None: integers are added up exactly, as int64."""
        return None

    @property
    def survivors(self) -> int:
        """Minimum number of clients in a sum that is ever revealed, enforced by the clients themselves; 0: no client
        checks."""
        return 0

    @property
    def weights_equal(self) -> bool:
        """True if each client counts once, whatever its weight: a sum's weight is then a number of clients."""
        return False

    def rounding(self, run: RunInfo) -> float:
        """Upper bound, in L2 norm, on what rounding adds to one client's contribution to the sum; 0 without
        rounding."""
        return 0.0

    def placed(self, run: RunInfo) -> Self:
        """Both sides, once, before `check`: returns this aggregator for `run`. State that must outlive a process
        belongs in a directory of its own under `run.directory`, created once the first round has started."""
        return self

    def enrolled(self, identities: RunIdentities) -> Self:
        """Both sides of a run at real sites, after `placed`: returns this aggregator with the clients' identities from
        the federation's roster. An aggregator without keys of clients returns itself."""
        return self

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError if this aggregator cannot keep its guarantees."""

    def derived(self, run: RunInfo) -> Mapping[str, str | int | float | bool | None]:
        """Values that follow from all clients' declared rows, by name. The plan of a run at real sites fixes them, and
        a site at which they come out differently refuses."""
        return {}

    def server(self, ctx: AggregationContext) -> Generator[Phase, Replies, Aggregate]:
        """Server, each round: yields phases, receives replies, returns the sum."""
        raise NotImplementedError

    def client(self, memory: bytes, message: bytes, vector: Arrays | None, ctx: ClientContext) -> tuple[bytes, bytes]:
        """Client, each phase: returns the memory for the round's next phase, and the reply. `vector` is the client's
        contribution to the sum in the phase that trains, otherwise None."""
        raise NotImplementedError

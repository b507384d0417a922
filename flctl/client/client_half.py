"""The aggregator's client half: its keys and memory, apart from the process that runs model code.

Nothing here imports torch. The vectors arrive as `Outgoing` from the process that trained; the reply leaves from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from flctl import seeds
from flctl.algorithms.aggregator import Aggregator
from flctl.algorithms.transform import ClientContext
from flctl.errors import FlctlError
from flctl.types import ClientId, Failure, Outgoing, Reply, Request
from flctl.wire.replies import guarded

if TYPE_CHECKING:
    from flctl.run.run import Run

__all__ = ["Answer", "ClientHalf"]

Answer = tuple[Reply | Failure, bytes]
"""A client's reply, and the aggregator's memory for the client's next message in the same round."""


@dataclass(frozen=True, slots=True)
class ClientHalf:
    """Answers for clients through the aggregator. `withholds_metrics`: the replies carry no training metrics."""

    aggregator: Aggregator
    seed: int
    withholds_metrics: bool = False

    @classmethod
    def of(cls, run: Run) -> Self:
        """Returns the client half of a run's aggregator."""
        return cls(run.aggregator, run.config.seed, run.withholds_metrics)

    def answer(self, client_id: ClientId, request: Request, memory: bytes, sent: Outgoing | Failure | None) -> Answer:
        """Returns a client's answer and its memory, a `Failure` for any exception. `sent` are the vectors of a request
        that trains, or why there are none."""
        if isinstance(sent, Failure):
            return sent, b""
        answer: Answer | Failure = guarded(partial(self.reply, client_id, request, memory, sent))
        return (answer, b"") if isinstance(answer, Failure) else answer

    def reply(self, client_id: ClientId, request: Request, memory: bytes, sent: Outgoing | None) -> tuple[Reply, bytes]:
        """Returns a client's reply and memory, and raises what the aggregator raises."""
        names = ("round", request.round, "client", client_id, "aggregator")
        ctx = ClientContext(request.round, client_id, {}, seeds.rng(self.seed, *names), work=request.work)
        vectors = None if sent is None else sent.vectors
        memory, message = self.aggregator.client(memory, request.message or b"", vectors, ctx)
        given = [type(part).__name__ for part in (memory, message)]
        if given != ["bytes", "bytes"]:
            name = self.aggregator.name
            raise FlctlError(f"aggregator '{name}' returned {' and '.join(given)}, expected memory and reply as bytes")
        metrics = {} if sent is None or self.withholds_metrics else sent.metrics
        return Reply(message, metrics), memory

"""Replies to single requests of an exchange: work, a message of the aggregator's protocol, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flctl import seeds
from flctl.algorithms.transform import ClientContext
from flctl.client.prepared_updates import PreparedUpdate, UpdatePreparation
from flctl.errors import FlctlError
from flctl.run.run import Run
from flctl.types import ClientId, Failure, IntArray, Reply, Request
from flctl.wire.replies import guarded, unguarded, weighted

__all__ = ["Answer", "ExchangeReplies"]

Answer = tuple[Reply | Failure, bytes]
"""A client's reply, and the aggregator's memory for the client's next message in the same round."""


@dataclass(frozen=True, slots=True)
class ExchangeReplies:
    """Answers requests through the client half of the aggregator."""

    run: Run
    preparation: UpdatePreparation

    def answers(self, ids: Sequence[ClientId], requests: Sequence[Request], memories: Sequence[bytes]) -> list[Answer]:
        """Returns each client's answer, a `Failure` for any exception. All requests have the same work, or no work;
        clients with work train together."""
        work = requests[0].work
        prepared: Sequence[PreparedUpdate | Failure | None] = [None] * len(ids)
        if work is not None:
            prepared = self.preparation.prepare_each(self._indices(ids), work)
        return [self._answer(*one) for one in zip(ids, requests, memories, prepared, strict=True)]

    def reply(self, client_id: ClientId, request: Request, memory: bytes) -> tuple[Reply, bytes]:
        """Returns one client's reply and memory, and raises what the client's code raises."""
        prepared: PreparedUpdate | None = None
        if request.work is not None:
            found = self.preparation.prepare(self._indices([client_id]), request.work, unguarded)[0]
            prepared = found if isinstance(found, PreparedUpdate) else None
        return self._reply(client_id, request, memory, prepared)

    def _answer(
        self, client_id: ClientId, request: Request, memory: bytes, prepared: PreparedUpdate | Failure | None
    ) -> Answer:
        if isinstance(prepared, Failure):
            return prepared, b""
        answer: Answer | Failure = guarded(partial(self._reply, client_id, request, memory, prepared))
        return (answer, b"") if isinstance(answer, Failure) else answer

    def _reply(
        self, client_id: ClientId, request: Request, memory: bytes, prepared: PreparedUpdate | None
    ) -> tuple[Reply, bytes]:
        vector = None if prepared is None else weighted(prepared.update, multiplied=self.run.multiplies)
        names = ("round", request.round, "client", client_id, "aggregator")
        ctx = ClientContext(request.round, client_id, {}, seeds.rng(self.run.config.seed, *names), work=request.work)
        memory, message = self.run.aggregator.client(memory, request.message or b"", vector, ctx)
        given = [type(part).__name__ for part in (memory, message)]
        if given != ["bytes", "bytes"]:
            name = self.run.aggregator.name
            raise FlctlError(f"aggregator '{name}' returned {' and '.join(given)}, expected memory and reply as bytes")
        metrics = {} if prepared is None or self.run.withholds_metrics else prepared.metrics
        return Reply(message, metrics), memory

    def _indices(self, ids: Sequence[ClientId]) -> IntArray:
        return np.array([self.run.partition.index(client_id) for client_id in ids], np.int64)

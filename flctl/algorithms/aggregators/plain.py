"""The plain aggregator: the server sees each update and adds it up in the clear."""

from __future__ import annotations

from collections.abc import Generator

from flctl import wire
from flctl.algorithms.aggregator import AggregationContext, Aggregator, Phase, Replies
from flctl.algorithms.transform import ClientContext
from flctl.types import Aggregate, Arrays

__all__ = ["PlainAggregator"]


class PlainAggregator(Aggregator):
    """Adds the vectors in the clear, in client order, in one accumulator."""

    name = "plain"
    transparent = True

    def server(self, ctx: AggregationContext) -> Generator[Phase, Replies, Aggregate]:
        total = ctx.total()
        replies = yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
        for client_id, message in replies:
            total.add(client_id, message)
        return total.aggregate()

    def client(self, memory: bytes, message: bytes, vector: Arrays | None, ctx: ClientContext) -> tuple[bytes, bytes]:
        return b"", wire.pack("vector", arrays=vector or {})

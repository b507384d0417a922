"""Clients that may train together in one exchange."""

from __future__ import annotations

from collections.abc import Mapping

from flctl.types import ClientId, Request

__all__ = ["groups"]


def groups(requests: Mapping[ClientId, Request]) -> list[list[ClientId]]:
    """The clients that may train together, in their order: neighbours with work and the same `chunk`."""
    found: list[list[ClientId]] = []
    before: int | None = None
    for client_id, request in requests.items():
        chunk = request.chunk if request.work is not None else None
        if chunk is not None and chunk == before:
            found[-1].append(client_id)
        else:
            found.append([client_id])
        before = chunk
    return found

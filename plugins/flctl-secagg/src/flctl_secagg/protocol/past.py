"""Past of a run: a hash chain over the outcomes of its sessions, as server and clients know it.

A session's id binds the chain's head, so clients agree on the past by agreeing on the id. A client remembers the head
of the last session that it took part in, and goes on only if the new head follows from it: a server that deletes,
repeats or rewrites a session that the client was in, or tells two clients of a later session two pasts, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

__all__ = ["FIRST", "HEAD_BYTES", "LINK_BYTES", "MOST_LINKS", "Past", "heads", "link"]

HEAD_BYTES, LINK_BYTES = 32, 64
MOST_LINKS = 1 << 16
"""Most sessions between two that a client takes part in."""
FIRST = bytes(HEAD_BYTES)
"""Head before the first session."""


def link(sid: bytes, outcome: bytes) -> bytes:
    """Returns a session's link: its id, and the SHA-256 of its outcome."""
    return sid + hashlib.sha256(outcome).digest()


def heads(head: bytes, links: bytes) -> Iterator[bytes]:
    """Yields `head`, and the head after each link."""
    yield head
    for at in range(0, len(links), LINK_BYTES):
        head = hashlib.sha256(head + links[at : at + LINK_BYTES]).digest()
        yield head


@dataclass(frozen=True)
class Past:
    """Links of all sessions so far, from the first."""

    links: bytes = b""

    @property
    def head(self) -> bytes:
        """Head after all sessions."""
        return next(reversed(self._places))

    def after(self, head: bytes) -> bytes | None:
        """Returns the links after a head; None if the head is not of this past."""
        at = self._places.get(head)
        return None if at is None else self.links[at:]

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {head: at * LINK_BYTES for at, head in enumerate(heads(FIRST, self.links))}

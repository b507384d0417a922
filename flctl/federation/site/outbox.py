"""Outbox of a site: sealed replies and their envelopes, whole or absent, until their round is settled."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flctl.atomic import write_file
from flctl.federation.transport.sealing import BlobFacts, content_key, seal_file

__all__ = ["Outbox", "StoredReply"]

ENVELOPE, BLOB = ".envelope", ".blob"


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply that waits for the hub: its envelope, and its sealed body if it has one."""

    task: str
    envelope: bytes
    blob: Path | None


class Outbox:
    """Folder of replies by task. `put` is final: a task that has a reply keeps it, because two would differ."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, task: str, body: bytes | None, envelope: Callable[[BlobFacts | None, bytes], bytes]) -> StoredReply:
        """Seals a reply's body, asks `envelope` for the header (of the sealed body and its key), and keeps both.

        The envelope is written last: a reply is there if its envelope is.
        """
        known = self.get(task)
        if known is not None:
            return known
        facts, key = None, b""
        if body is not None:
            facts, key = self._sealed(task, body)
        write_file(self.folder / (task + ENVELOPE), envelope(facts, key))
        return self._there(task)

    def get(self, task: str) -> StoredReply | None:
        """Returns the reply to a task, or None."""
        return self._there(task) if (self.folder / (task + ENVELOPE)).exists() else None

    def remove(self, tasks: Iterable[str]) -> None:
        """Removes the replies to tasks whose round is settled."""
        for task in tasks:
            for suffix in (ENVELOPE, BLOB):
                (self.folder / (task + suffix)).unlink(missing_ok=True)

    def _sealed(self, task: str, body: bytes) -> tuple[BlobFacts, bytes]:
        plain, sealed = self.folder / f"{task}.plain", self.folder / (task + BLOB)
        try:
            with os.fdopen(os.open(plain, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as writing:
                writing.write(body)
            # Fresh entropy for each reply: two sites' equal bodies must not have equal ciphertexts.
            key = content_key(secrets.token_bytes(32), secrets.token_hex(32))
            return seal_file(plain, sealed, key), key
        finally:
            plain.unlink(missing_ok=True)

    def _there(self, task: str) -> StoredReply:
        blob = self.folder / (task + BLOB)
        envelope = (self.folder / (task + ENVELOPE)).read_bytes()
        return StoredReply(task, envelope, blob if blob.exists() else None)

"""The last reply of each open session, kept so that a message that comes again is answered with the same bytes.

On a network replies are lost. A second reply of its own making to one message would be another masked vector under the
same keys, so a client sends what it sent.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from flctl import StorageError
from flctl_secagg.crypto.primitives import bound

__all__ = ["Outbox"]

_HEAD = struct.Struct(">d32sQ")
"""Time of the reply, digest of the message, and length of the memory that follows; then the reply."""


@dataclass(frozen=True)
class Outbox:
    """A directory with one file for each session (0600), replaced at each phase; without a directory nothing is kept.

    A file holds sealed memory and a reply that has left the client already, so it holds no secret in the clear.
    """

    directory: Path | None = None

    def again(self, client: str, sid: bytes, message: bytes, since: float) -> tuple[bytes, bytes] | None:
        """(memory, reply) of the last message of a session if `message` is that message, answered after `since`."""
        if self.directory is None:
            return None
        try:
            raw = self._path(client, sid).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(error) from error
        if len(raw) < _HEAD.size:
            return None
        answered, digest, length = _HEAD.unpack_from(raw)
        if digest != hashlib.sha256(message).digest() or answered < since:
            return None
        return raw[_HEAD.size : _HEAD.size + length], raw[_HEAD.size + length :]

    def keep(self, client: str, sid: bytes, message: bytes, sent: tuple[bytes, bytes], now: float) -> None:
        """Keeps a memory and a reply, in the place of those of the phase before."""
        if self.directory is None:
            return
        memory, reply = sent
        path = self._path(client, sid)
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(_HEAD.pack(now, hashlib.sha256(message).digest(), len(memory)))
                file.write(memory)
                file.write(reply)
            os.replace(partial, path)
        except OSError as error:
            raise _unusable(error) from error

    def forget(self, before: float) -> None:
        """Removes replies from before a time."""
        if self.directory is None or not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            try:
                with path.open("rb") as file:
                    head = file.read(_HEAD.size)
                if len(head) < _HEAD.size or _HEAD.unpack(head)[0] < before:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise _unusable(error) from error

    def _path(self, client: str, sid: bytes) -> Path:
        name = hashlib.sha256(bound(b"outbox", client.encode(), sid)).hexdigest()
        return (self.directory or Path()) / f"{name}.reply"


def _unusable(error: OSError) -> StorageError:
    return StorageError(f"the kept replies cannot be used: {error.strerror}", hint="Is the disk full, or read-only?")

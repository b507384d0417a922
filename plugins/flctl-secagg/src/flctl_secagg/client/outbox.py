"""Last reply of each open session, kept so that a repeated message is answered with the same bytes.

Networks lose replies. A newly computed reply would be a second masked vector under the same keys, so a client resends
the first one.
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
"""Header: time of the reply, SHA-256 of the message, length of the sealed state. The state and the reply follow."""


@dataclass(frozen=True)
class Outbox:
    """Directory with one file per session (mode 0600), replaced at each phase. Without a directory, nothing is kept.

    A file holds sealed state, and a reply that was already sent: no secret in the clear.
    """

    directory: Path | None = None

    def again(self, client: str, sid: bytes, message: bytes, since: float) -> tuple[bytes, bytes] | None:
        """Returns (state, reply) if `message` is the session's last, answered at `since` or later; else None."""
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
        """Stores a state and a reply in place of those of the phase before. Raises StorageError if it cannot write."""
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
        """Removes replies older than the time `before`, and files without a whole header."""
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
    return StorageError(
        f"the stored replies cannot be used: {error.strerror}", hint="Check the free space and permissions of the disk."
    )

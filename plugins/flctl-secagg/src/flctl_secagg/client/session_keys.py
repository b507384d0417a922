"""Keys that seal a client's state between phases: a new one for each phase, so that old state cannot be opened later.

State travels through the server. Sealed with a key that lasts, it could be opened by a later theft of that key. The key
of a phase is overwritten by that of the next, and erased with the session.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from flctl import StorageError
from flctl_secagg.crypto.primitives import KEY_BYTES, bound, new_key

__all__ = ["SessionKeys"]


@dataclass(frozen=True)
class SessionKeys:
    """Directory with one file per open session (mode 0600).

    A key is overwritten in place and flushed. Copies that a file system, an SSD or a backup keeps are beyond its reach.
    """

    directory: Path

    def current(self, client: str, sid: bytes) -> bytes | None:
        """Returns the key of a session's newest state; None if the session is over or unknown."""
        try:
            key = self._path(client, sid).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(error) from error
        return key if len(key) == KEY_BYTES else None

    def renew(self, client: str, sid: bytes) -> bytes:
        """Replaces a session's key by a new one, and returns it. Raises StorageError if it cannot be written."""
        key = new_key()
        self._write(client, sid, key)
        return key

    def erase(self, client: str, sid: bytes) -> None:
        """Erases a session's key."""
        if self._path(client, sid).exists():
            self._write(client, sid, bytes(KEY_BYTES))
            self._path(client, sid).unlink(missing_ok=True)

    def forget(self, before: float) -> None:
        """Erases keys that were last renewed before this time (POSIX seconds)."""
        for path in self.directory.glob("*.key") if self.directory.is_dir() else ():
            if path.stat().st_mtime < before:
                _overwrite(path, bytes(KEY_BYTES))
                path.unlink(missing_ok=True)

    def _write(self, client: str, sid: bytes, key: bytes) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _overwrite(self._path(client, sid), key)
        except OSError as error:
            raise _unusable(error) from error

    def _path(self, client: str, sid: bytes) -> Path:
        return self.directory / f"{hashlib.sha256(bound(b'session', client.encode(), sid)).hexdigest()}.key"


def _overwrite(path: Path, data: bytes) -> None:
    """Writes over a file in place, without truncating it first."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unusable(error: OSError) -> StorageError:
    return StorageError(
        f"the keys of sessions cannot be used: {error.strerror}", hint="Is the disk full, or read-only?"
    )

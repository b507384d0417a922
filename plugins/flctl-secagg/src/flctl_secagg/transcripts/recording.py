"""What passed through the server in one session, in a file; and whether it is as the protocol says."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from flctl import IntegrityError, StorageError
from flctl_secagg.encoding.packing import pack
from flctl_secagg.protocol.session import Session
from flctl_secagg.server.attempt import Unmasked

__all__ = ["Entry", "Transcript", "read_entries"]

MAGIC = b"flctl-secagg-transcript/1\n"
ROSTER, PUBLISHED = 200, 201
SENT, CAME = 0, 1
_HEAD = struct.Struct(">BBHQ")
_MOST = 1 << 36


@dataclass(frozen=True, slots=True)
class Entry:
    """One message: whether it was sent (0) or came (1), of which kind, to or from whom, and its bytes."""

    way: int
    kind: int
    client: str
    message: bytes


class Transcript:
    """Writes entries as they come. The file holds shares that clients opened: it is for the server's eyes (0600)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def new(cls, directory: Path, session: Session) -> Self:
        """The transcript of a session, in a new file named by round and session."""
        name = f"round-{session.parameters.round:05d}-{session.sid.hex()[:12]}.transcript"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise StorageError(f"the transcript {name} cannot be written: {error.strerror}") from error
        transcript = cls(os.fdopen(handle, "wb"))
        transcript._file.write(MAGIC)
        transcript._write(SENT, ROSTER, "", session.roster.text().encode())
        return transcript

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def sent(self, kind: int, client: str, message: bytes) -> None:
        """A message to a client."""
        self._write(SENT, kind, client, message)

    def came(self, kind: int, client: str, message: bytes) -> None:
        """A reply, before it is looked at."""
        self._write(CAME, kind, client, message)

    def publish(self, unmasked: Unmasked) -> None:
        """The sum that the session gave, 64 bits to a word."""
        self._write(SENT, PUBLISHED, "", pack(unmasked.words.astype("<u8"), 64))

    def _write(self, way: int, kind: int, client: str, message: bytes | bytearray) -> None:
        name = client.encode()
        try:
            self._file.write(_HEAD.pack(way, kind, len(name), len(message)) + name)
            self._file.write(message)
        except OSError as error:
            raise StorageError(f"a transcript cannot be written: {error.strerror}") from error


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a transcript. Raises IntegrityError for a file that is none, or is cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise IntegrityError(f"{path.name} is no transcript of secure aggregation")
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise IntegrityError(f"{path.name} is cut off")
            way, kind, name, length = _HEAD.unpack(head)
            if length > min(_MOST, size):
                raise IntegrityError(f"{path.name} declares a message of {length} bytes and has {size}")
            client, message = file.read(name), file.read(length)
            if (len(client), len(message)) != (name, length):
                raise IntegrityError(f"{path.name} is cut off")
            yield Entry(way, kind, client.decode("utf-8", "replace"), message)

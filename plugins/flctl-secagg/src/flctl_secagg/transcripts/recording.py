"""Transcripts: files that record every message between the server and the clients of one session."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from flctl import FlctlError, IntegrityError, StorageError
from flctl_secagg.encoding.packing import pack
from flctl_secagg.identity.roster import roster_of
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.past import Past
from flctl_secagg.protocol.session import Session
from flctl_secagg.server.attempt import Unmasked
from flctl_secagg.server.journal import TRANSCRIPTS, Journal, Outcome

__all__ = ["Entry", "Transcript", "read_entries", "record_cut", "session_of"]

MAGIC = b"flctl-secagg-transcript/1\n"
ROSTER, PUBLISHED, PAST = 200, 201, 202
SENT, CAME = 0, 1
SHOWN = 12
"""Hex digits of a session's id in its file's name."""
_HEAD = struct.Struct(">BBHQ")
_MOST = 1 << 36


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded message: its direction (`way`: 0 sent, 1 received), kind, client and bytes."""

    way: int
    kind: int
    client: str
    message: bytes


class Transcript:
    """Writer of a transcript. The file holds opened shares, so only the server may read it (mode 0600)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256(MAGIC)

    @classmethod
    def new(cls, directory: Path, session: Session, past: Past | None = None) -> Self:
        """Creates the transcript of a session, in a file named by round and session id; it replaces that of
        the same session before the server was stopped."""
        name = f"round-{session.parameters.round:05d}-{session.sid.hex()[:SHOWN]}.transcript"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise StorageError(f"the transcript {name} cannot be written: {error.strerror}") from error
        transcript = cls(os.fdopen(handle, "wb"))
        transcript._file.write(MAGIC)
        transcript._write(SENT, ROSTER, "", session.roster.text().encode())
        transcript._write(SENT, PAST, "", (past or Past()).links)
        return transcript

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def sent(self, kind: int, client: str, message: bytes) -> None:
        """Records a message to a client."""
        self._write(SENT, kind, client, message)

    def came(self, kind: int, client: str, message: bytes) -> None:
        """Records a reply, before it is checked."""
        self._write(CAME, kind, client, message)

    def publish(self, unmasked: Unmasked) -> None:
        """Records the session's sum, 64 bits per word."""
        self._write(SENT, PUBLISHED, "", pack(unmasked.words.astype("<u8"), 64))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the file so far."""
        return self._digest.hexdigest()

    def _write(self, way: int, kind: int, client: str, message: bytes | bytearray) -> None:
        name = client.encode()
        try:
            for part in (_HEAD.pack(way, kind, len(name), len(message)) + name, message):
                self._digest.update(part)
                self._file.write(part)
        except OSError as error:
            raise StorageError(f"a transcript cannot be written: {error.strerror}") from error


def read_entries(path: Path, *, cut: bool = False) -> Iterator[Entry]:
    """Yields the entries of a transcript. Raises IntegrityError if the file is not a transcript or is truncated; `cut`
    accepts a truncated file, and yields its complete entries."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise IntegrityError(f"{path.name} is not a transcript of secure aggregation")
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size and cut:
                return
            if len(head) < _HEAD.size:
                raise IntegrityError(f"{path.name} is truncated")
            way, kind, name, length = _HEAD.unpack(head)
            if length > min(_MOST, size) and cut:
                return
            if length > min(_MOST, size):
                raise IntegrityError(f"{path.name} declares a message of {length} bytes and has {size}")
            client, message = file.read(name), file.read(length)
            if (len(client), len(message)) != (name, length) and cut:
                return
            if (len(client), len(message)) != (name, length):
                raise IntegrityError(f"{path.name} is truncated")
            yield Entry(way, kind, client.decode("utf-8", "replace"), message)


def session_of(entries: Iterable[Entry], path: Path) -> Session:
    """Returns the session that a transcript's first message proposes, under the recorded roster. Raises IntegrityError
    if there is no roster, more than one, or no such message; ProtocolError if the parameters are malformed."""
    found = [entry for entry in entries if entry.kind == ROSTER or (entry.way, entry.kind) == (SENT, frames.HELLO)]
    rosters = [entry.message for entry in found if entry.kind == ROSTER]
    hellos = [entry.message for entry in found if entry.kind != ROSTER]
    if len(rosters) != 1 or not hellos:
        raise IntegrityError(f"{path.name} has no roster, or no session")
    roster = roster_of(rosters[0].decode("utf-8", "replace"), path)
    return Session(Parameters.read(frames.without_signature(hellos[0])[0][frames.HEAD :]), roster)


def record_cut(journal: Journal) -> None:
    """Records sessions that began and have no outcome as `cut`: the server was stopped during them."""
    _record_cut_transcripts(journal)
    begun = journal.begun()
    if begun is not None:
        journal.record(begun)


def _record_cut_transcripts(journal: Journal) -> None:
    folder = None if journal.path is None else journal.path / TRANSCRIPTS
    if folder is None or not folder.is_dir():
        return
    known = {one.sid[:SHOWN] for one in journal.outcomes()}
    for path in sorted(folder.glob("*.transcript")):
        if path.stem.rpartition("-")[2] in known:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            session = session_of(read_entries(path, cut=True), path)
        except FlctlError:
            continue  # stopped before the first message was written
        journal.record(Outcome(session.parameters.round, session.sid.hex(), "cut", transcript=digest))

"""What a client must not forget: which steps of which sessions it took, and for which survivors it opened shares."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock

from flctl import ProtocolError, StorageError

__all__ = ["Ledger"]

_TABLES = """
CREATE TABLE IF NOT EXISTS steps (client TEXT, sid BLOB, phase INTEGER, PRIMARY KEY (client, sid, phase)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    client TEXT, run TEXT, round INTEGER, survivors TEXT, number INTEGER PRIMARY KEY, UNIQUE (client, run, round));
"""
_SECONDS = 30.0
"""How long another process may hold the record."""
_PAUSE = 0.01
_lock = Lock()


@dataclass(frozen=True)
class Ledger:
    """A record that outlives the process before the step that it records has any effect; `synced`, it outlives a loss
    of power too. Of a process's life where `path` is None. It holds ids and no secrets."""

    path: Path | None = None
    synced: bool = True

    def claim(self, client: str, sid: bytes, phase: int) -> None:
        """Takes a step of a session, once. Raises ProtocolError for a second time: another answer under the same keys
        and masks could be held against the first."""
        taken = self._insert("INSERT OR IGNORE INTO steps VALUES (?, ?, ?)", (client, sid, phase))
        if not taken:
            raise ProtocolError("this step of the session was taken before", hint="A session is never used twice.")

    def answer(self, client: str, run: str, number: int, survivors: Sequence[str], apart: bool = False) -> None:
        """Opens shares for the survivors of a round. Raises ProtocolError where it did so for others in that round,
        or, if they are to be kept `apart`, for others that differ by one client in any round: the difference of two
        sums over almost the same clients is an update. Looked up and written in one step, for two processes too."""
        listed, refused = json.dumps(list(survivors)), None
        with self._locked() as connection:
            connection.execute("BEGIN IMMEDIATE")
            query = "SELECT round, survivors FROM answers WHERE client = ? AND run = ?"
            earlier = connection.execute(
                query + ("" if apart else " AND round = ?"), (client, run, number)[: 3 - apart]
            )
            refused = _conflict(number, listed, earlier.fetchall())
            if refused is None:
                statement = "INSERT OR IGNORE INTO answers (client, run, round, survivors) VALUES (?, ?, ?, ?)"
                connection.execute(statement, (client, run, number, listed))
        if refused is not None:
            raise refused

    def last_survivors(self, client: str, run: str, before: int) -> list[str] | None:
        """For whom the client opened shares in its newest round before that one."""
        query = "SELECT survivors FROM answers WHERE client = ? AND run = ? AND round < ? ORDER BY round DESC LIMIT 1"
        found = self._ask(query, (client, run, before))
        return None if found is None else list(json.loads(found))

    def _insert(self, statement: str, values: tuple[object, ...]) -> bool:
        with self._locked() as connection:
            return connection.execute(statement, values).rowcount == 1

    def _ask(self, query: str, values: tuple[object, ...]) -> str | None:
        with self._locked() as connection:
            row = connection.execute(query, values).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what was written is committed at the end."""
        try:
            with _lock, _connection(self.path, self.synced) as connection:
                yield connection
        except sqlite3.Error as error:
            raise _refusal(error) from error


def _refusal(error: sqlite3.Error) -> StorageError:
    if _is_busy(error):
        return StorageError(
            f"another process has held the record of sessions for {_SECONDS:g} seconds",
            hint="Wait for it, or end it: a process that was stopped in the middle keeps the record.",
        )
    return StorageError(f"the record of sessions cannot be used: {error}", hint="Is the disk full, or read-only?")


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way, and nothing is wrong; the lower byte of a code is its kind."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _conflict(number: int, listed: str, earlier: Sequence[tuple[int, str]]) -> ProtocolError | None:
    """Why shares cannot be opened for the listed survivors after the earlier ones; None where they can."""
    before = dict(earlier)
    if before.get(number, listed) != listed:
        return ProtocolError(
            f"in round {number}, shares were opened for other survivors before",
            hint="The round cannot be repeated with other clients; start a new run from its checkpoint.",
        )
    now = set(json.loads(listed))
    near = [other for other, text in earlier if len(now ^ set(json.loads(text))) == 1]
    if not near:
        return None
    return ProtocolError(
        f"the survivors differ by one client from those of round {near[0]}: two sums would tell what it sent",
        hint="Set aggregator.differing=warn, and rely on differential privacy for what sums reveal.",
    )


def _connection(path: Path | None, synced: bool) -> sqlite3.Connection:
    if path is None:
        return _in_memory(os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    inode = os.fstat(handle).st_ino  # a record that was moved away is not the one that a new process would find
    os.close(handle)
    return _on_disk(path, synced, os.getpid(), inode)


@cache
def _in_memory(process: int) -> sqlite3.Connection:
    return _opened(":memory:", synced=False)


@lru_cache(maxsize=8)
def _on_disk(path: Path, synced: bool, process: int, inode: int) -> sqlite3.Connection:
    return _opened(str(path), synced)


def _opened(name: str, synced: bool) -> sqlite3.Connection:
    """A connection. SQLite does not wait where two processes switch a new record to its journal at once, but says at
    once that it is locked: so it is tried again."""
    deadline = time.monotonic() + _SECONDS
    while True:
        connection = sqlite3.connect(name, timeout=_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            connection.executescript(_TABLES)
            return connection
        except sqlite3.Error as error:
            connection.close()
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)

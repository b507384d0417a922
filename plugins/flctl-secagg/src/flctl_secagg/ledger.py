"""What a client must not forget: which steps of which sessions it took, and for which survivors it opened shares."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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

    def answer(self, client: str, run: str, number: int, survivors: Sequence[str]) -> None:
        """Opens shares for the survivors of a round. Raises ProtocolError where it did so for others in that round:
        the difference of two sums over almost the same clients is an update."""
        listed = json.dumps(list(survivors))
        statement = "INSERT OR IGNORE INTO answers (client, run, round, survivors) VALUES (?, ?, ?, ?)"
        if not self._insert(statement, (client, run, number, listed)):
            query = "SELECT survivors FROM answers WHERE client = ? AND run = ? AND round = ?"
            if self._ask(query, (client, run, number)) != listed:
                raise ProtocolError(
                    f"in round {number}, shares were opened for other survivors before",
                    hint="The round cannot be repeated with other clients; start a new run from its checkpoint.",
                )

    def last_survivors(self, client: str, run: str, before: int) -> list[str] | None:
        """For whom the client opened shares in its newest round before that one."""
        query = "SELECT survivors FROM answers WHERE client = ? AND run = ? AND round < ? ORDER BY round DESC LIMIT 1"
        found = self._ask(query, (client, run, before))
        return None if found is None else list(json.loads(found))

    def _insert(self, statement: str, values: tuple[object, ...]) -> bool:
        try:
            with _lock, _connection(self.path, self.synced, os.getpid()) as connection:
                return connection.execute(statement, values).rowcount == 1
        except sqlite3.Error as error:
            raise StorageError(
                f"the record of sessions cannot be written: {error}", hint="Is the disk full?"
            ) from error

    def _ask(self, query: str, values: tuple[object, ...]) -> str | None:
        try:
            with _lock:
                row = _connection(self.path, self.synced, os.getpid()).execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"the record of sessions cannot be read: {error}") from error
        return None if row is None else str(row[0])


@lru_cache(maxsize=8)
def _connection(path: Path | None, synced: bool, process: int) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    name = ":memory:" if path is None else str(path)
    connection = sqlite3.connect(name, timeout=_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    connection.executescript(_TABLES)
    return connection

"""Durable record of a client: the steps of sessions that it took, and the survivors for which it opened shares."""

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
from flctl.errors import counted
from flctl.types import ROW_SUMS
from flctl_secagg.client.differences import exposed
from flctl_secagg.protocol.past import FIRST, heads
from flctl_secagg.protocol.session import Session

__all__ = ["Ledger", "Opening"]

_TABLES = """
CREATE TABLE IF NOT EXISTS steps (client TEXT, sid BLOB, phase INTEGER, PRIMARY KEY (client, sid, phase)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS openings (
    client TEXT, run TEXT, round INTEGER, work TEXT, survivors TEXT, number INTEGER PRIMARY KEY,
    UNIQUE (client, run, round));
CREATE TABLE IF NOT EXISTS members (
    client TEXT, run TEXT, round INTEGER, keys TEXT, PRIMARY KEY (client, run, round)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (client TEXT, run TEXT, head BLOB, sid BLOB, PRIMARY KEY (client, run)) WITHOUT ROWID;
"""
_SECONDS = 30.0
"""Seconds to wait for another process that holds the record locked."""
_PAUSE = 0.01
_SHOWN = 32
"""Hex digits of an identity key that the record keeps: 128 bits."""
_lock = Lock()


@dataclass(frozen=True, slots=True)
class Opening:
    """Opening of shares for the survivors of one round of a run; `work` is the digest of the round's work. Sums over
    rows, as of an evaluation, are recorded under a name of their own, RUN/evaluate.

    `keys` has the survivors' identity keys, abbreviated: a client may have another name on the roster of another run.
    """

    run: str
    round: int
    work: str
    survivors: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, session: Session, survivors: Sequence[str]) -> Opening:
        """The opening of a session's shares for its survivors."""
        asked, keys = session.parameters, session.roster.keys
        abbreviated = tuple(keys[name].hex()[:_SHOWN] for name in survivors)
        run = asked.run if asked.ask == "train" else f"{asked.run}/{asked.ask}"
        return cls(run, asked.round, asked.work, tuple(survivors), abbreviated)

    def combines_with(self, other: Opening) -> bool:
        """True if the sums of both are of one kind: of updates, or of one kind of sums over rows. A difference of sums
        of two kinds says nothing of one client."""
        return _kind(self.run) == _kind(other.run)

    @property
    def members(self) -> dict[str, str]:
        """Names of the survivors by key; by name if no keys were recorded."""
        return dict(zip(self.keys or self.survivors, self.survivors, strict=True))

    def exposes(self, earlier: Sequence[Opening]) -> tuple[str, ...]:
        """Returns one client whose update the sum gives together with earlier ones, or two if they give a combination
        of them; else empty."""
        lists = [self, *_linked(self, [one for one in earlier if self.combines_with(one)])]
        named = {key: name for one in reversed(lists) for key, name in one.members.items()}
        return tuple(sorted(named[key] for key in exposed([one.members for one in lists])))


@dataclass(frozen=True)
class Ledger:
    """SQLite record of steps and openings, each committed before it takes effect, so that it survives a crash.

    With `synced` it survives a power loss too. Without a `path` it lasts as long as the process. It holds ids, and no
    secrets.
    """

    path: Path | None = None
    synced: bool = True

    def claim(self, client: str, sid: bytes, phase: int) -> None:
        """Records a step of a session. Raises ProtocolError if it was taken before: two answers under the same keys and
        masks would reveal their difference."""
        taken = self._insert("INSERT OR IGNORE INTO steps VALUES (?, ?, ?)", (client, sid, phase))
        if not taken:
            raise ProtocolError("this step of the session was already taken", hint="A session is never used twice.")

    def answer(self, client: str, opening: Opening, *, apart: bool = False) -> None:
        """Records that a client is about to open shares for the survivors of a round.

        Raises ProtocolError if the client opened shares for other survivors in that round, or for that work in any
        run, or opened shares in a later round. With `apart`, also if the sum over these survivors, combined with the
        sums of other rounds of all runs, gives one client's update or a combination of two. The check and the
        insertion are one transaction: of two processes with conflicting openings, only one succeeds.
        """
        with self._locked() as connection:
            connection.execute("BEGIN IMMEDIATE")
            refused = _conflict(opening, self._openings(connection, client), apart=apart)
            if refused is None:
                statement = (
                    "INSERT OR IGNORE INTO openings (client, run, round, work, survivors) VALUES (?, ?, ?, ?, ?)"
                )
                values = (client, opening.run, opening.round, opening.work, json.dumps(list(opening.survivors)))
                connection.execute(statement, values)
                if opening.keys:
                    members = (client, opening.run, opening.round, json.dumps(list(opening.keys)))
                    connection.execute("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", members)
        if refused is not None:
            raise refused

    def check(self, client: str, opening: Opening, *, apart: bool = False) -> None:
        """Raises the ProtocolError that `answer` would raise; records nothing."""
        with self._locked() as connection:
            refused = _conflict(opening, self._openings(connection, client), apart=apart)
        if refused is not None:
            raise refused

    def head(self, client: str, run: str) -> bytes:
        """Head of the past that the client remembers of a run."""
        with self._locked() as connection:
            return self._head(connection, client, run)[0]

    def heads(self) -> list[tuple[str, str, bytes, bytes]]:
        """Lists (client, run, head, id of the session that followed) for all clients of this record."""
        with self._locked() as connection:
            return connection.execute("SELECT client, run, head, sid FROM heads ORDER BY client, run").fetchall()

    def follow(self, client: str, run: str, head: bytes, sid: bytes, links: bytes) -> None:
        """Replaces the client's head by that of a new session, in one transaction.

        Raises ProtocolError unless the links lead from the head that the client remembers to the new one, and the first
        of them is that of the session which the client took part in there.
        """
        with self._locked() as connection:
            connection.execute("BEGIN IMMEDIATE")
            known, last = self._head(connection, client, run)
            *_, reached = heads(known, links)
            if reached == head and (not last or links[: len(last)] == last or (not links and last == sid)):
                values = (client, run, head, sid)
                connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)", values)
                return
        raise ProtocolError(
            f"the server's record of run '{run}' is not the one that this client remembers",
            hint="A session was deleted or rewritten, or others were told another past (flctl secagg verify RUN --keys "
            "DIR). A new run needs a roster of its own: flctl secagg roster sign DIR --run NAME",
        )

    @staticmethod
    def _head(connection: sqlite3.Connection, client: str, run: str) -> tuple[bytes, bytes]:
        query = "SELECT head, sid FROM heads WHERE client = ? AND run = ?"
        return connection.execute(query, (client, run)).fetchone() or (FIRST, b"")

    def openings(self, client: str, run: str | None = None) -> list[Opening]:
        """All openings of a client in a run, or in all runs, oldest first."""
        with self._locked() as connection:
            return [one for one in self._openings(connection, client) if run in (None, one.run)]

    def runs(self, client: str) -> list[str]:
        """Names of the runs in which a client opened shares."""
        with self._locked() as connection:
            rows = connection.execute("SELECT DISTINCT run FROM openings WHERE client = ?", (client,)).fetchall()
        return [str(run) for (run,) in rows]

    @staticmethod
    def _openings(connection: sqlite3.Connection, client: str) -> list[Opening]:
        query = (
            "SELECT run, round, work, survivors, COALESCE(keys, '[]') FROM openings "
            "LEFT JOIN members USING (client, run, round) WHERE client = ? ORDER BY number"
        )
        rows = connection.execute(query, (client,)).fetchall()
        return [
            Opening(run, round_number, work, tuple(json.loads(names)), tuple(json.loads(keys)))
            for run, round_number, work, names, keys in rows
        ]

    def _insert(self, statement: str, values: tuple[object, ...]) -> bool:
        with self._locked() as connection:
            return connection.execute(statement, values).rowcount == 1

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        """Connection for one thread at a time. A normal exit commits; SQLite errors become StorageError."""
        try:
            with _lock, _connection(self.path, synced=self.synced) as connection:
                yield connection
        except sqlite3.Error as error:
            raise _refusal(error) from error


def _refusal(error: sqlite3.Error) -> StorageError:
    if _is_busy(error):
        return StorageError(
            f"another process has held the record of sessions for {_SECONDS:g} seconds",
            hint="Wait for that process, or terminate it: a suspended process keeps the record locked.",
        )
    return StorageError(
        f"the record of sessions cannot be used: {error}", hint="Check the free space and permissions of the disk."
    )


def _is_busy(error: sqlite3.Error) -> bool:
    """True if another connection holds a lock, so that waiting helps. The low byte is SQLite's primary error code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _conflict(opening: Opening, earlier: Sequence[Opening], *, apart: bool) -> ProtocolError | None:
    """Error that forbids an opening, given the earlier ones; None if it is allowed."""
    members, earlier = opening.members.keys(), [other for other in earlier if opening.combines_with(other)]
    same_list = [other for other in earlier if other.members.keys() == members]
    for other in earlier:
        if other not in same_list and _is_repeated(opening, other):
            return _repeated(opening, other)
    here = [other for other in earlier if other.run == opening.run]
    latest = max((other.round for other in here), default=0)
    if opening.round < latest and not any(other.round == opening.round for other in here if other in same_list):
        return ProtocolError(
            f"shares of round {opening.round} were requested, and shares were already opened in round {latest}",
            hint="Resume from a later checkpoint.",
        )
    if not apart or same_list:
        return None
    return _exposure(opening, earlier)


def _kind(run: str) -> str:
    """Returns the kind of sums over rows by the name under which they are recorded; empty for updates."""
    kind = run.rpartition("/")[2]
    return kind if kind in ROW_SUMS else ""


def _linked(opening: Opening, earlier: Sequence[Opening]) -> list[Opening]:
    """Earlier openings that share clients with this one, directly or through others: no other sum combines with it."""
    members, left, found = set(opening.members), list(earlier), list[Opening]()
    while near := [one for one in left if not members.isdisjoint(one.members)]:
        found += near
        left = [one for one in left if members.isdisjoint(one.members)]
        members.update(*(one.members for one in near))
    return found


def _is_repeated(opening: Opening, other: Opening) -> bool:
    """True if an earlier opening was of the same round of the run, or of the same work, with some of the clients."""
    if opening.run == other.run and opening.round == other.round:
        return True
    return opening.work == other.work and not opening.members.keys().isdisjoint(other.members)


def _repeated(opening: Opening, other: Opening) -> ProtocolError:
    if opening.run == other.run:
        return ProtocolError(
            f"in round {other.round}, shares were opened for other survivors before",
            hint="A client opens shares for one list of survivors per round. Continue with the next round.",
        )
    return ProtocolError(
        f"in round {other.round} of run '{other.run}', shares of the same work were opened for other survivors",
        hint="A client opens shares of equal work for one list of survivors. Train with another seed: --seed N.",
    )


def _exposure(opening: Opening, earlier: Sequence[Opening]) -> ProtocolError | None:
    found = opening.exposes(earlier)
    if not found:
        return None
    whose = f"the update of client '{found[0]}'" if len(found) == 1 else f"a combination of two updates, {found}"
    others = "" if all(one.run == opening.run for one in _linked(opening, earlier)) else " and runs"
    return ProtocolError(
        f"with the sums of earlier rounds{others}, the sum over these "
        f"{counted(len(opening.survivors), 'survivor')} would reveal {whose}",
        hint="Exclude more clients from the round; or set aggregator.differing=warn, and rely on differential privacy.",
    )


def _connection(path: Path | None, *, synced: bool) -> sqlite3.Connection:
    if path is None:
        return _in_memory(os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    inode = os.fstat(handle).st_ino  # a replaced file is a new record: a cached connection would write to the old one
    os.close(handle)
    return _on_disk(path, synced=synced, process=os.getpid(), inode=inode)


@cache
def _in_memory(process: int) -> sqlite3.Connection:
    return _opened(":memory:", synced=False)


@lru_cache(maxsize=8)
def _on_disk(path: Path, process: int, inode: int, *, synced: bool) -> sqlite3.Connection:
    return _opened(str(path), synced=synced)


def _opened(name: str, *, synced: bool) -> sqlite3.Connection:
    """Opens a connection, with retries. When two processes switch a new record to WAL at the same time, SQLite ignores
    its timeout and reports a locked database immediately."""
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

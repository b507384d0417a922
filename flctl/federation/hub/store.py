"""The hub's database: orders to sites, their answers, and which blobs they name. A change is on disk when it returns.

One thread uses a HubStore. SQLite keeps a write-ahead log and flushes it at each commit (`synchronous=FULL`).
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flctl.errors import IntegrityError, StorageError
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.envelope import Envelope

__all__ = ["HubStore", "OrderedTask"]

VERSION = 1
MOST_PAGE = 8 << 20
"""Bytes of envelopes in one answer, to which JSON may add twice as many."""
SCHEMA = """
CREATE TABLE runs (run TEXT PRIMARY KEY, coordinator TEXT NOT NULL, ended INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE orders (
  number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, site TEXT NOT NULL, kind TEXT NOT NULL, task TEXT UNIQUE,
  round INTEGER NOT NULL, until REAL NOT NULL, reply_bytes INTEGER NOT NULL, state TEXT NOT NULL, text BLOB NOT NULL
) STRICT;
CREATE INDEX orders_site ON orders (site, state, number);
CREATE INDEX orders_run ON orders (run, round);
CREATE TABLE answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, site TEXT NOT NULL, kind TEXT NOT NULL, task TEXT UNIQUE,
  round INTEGER NOT NULL, digest TEXT NOT NULL, text BLOB NOT NULL
) STRICT;
CREATE INDEX answers_run ON answers (run, kind, number);
CREATE INDEX answers_site ON answers (run, site, kind, digest);
CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE links (
  sha256 TEXT NOT NULL, run TEXT NOT NULL, kind TEXT NOT NULL, ref TEXT NOT NULL, round INTEGER,
  PRIMARY KEY (sha256, kind, ref)
) STRICT;
CREATE INDEX links_run ON links (run, round);
"""
"""A link says why a blob is kept: an `upload` (ref: member and task), an `order` or an `answer` (ref: its number)."""
Rows = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class OrderedTask:
    """A task as the hub knows it."""

    run: str
    site: str
    round: int
    reply_bytes: int
    state: str


class HubStore:
    """The database at `path`. Every method that changes something returns after the change is on disk."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            elif version != VERSION:
                raise IntegrityError(f"the hub's database has format {version}, expected {VERSION}")
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"the hub's database cannot be used: {error}", hint="Restore the hub's folder from a backup."
            ) from error

    def close(self) -> None:
        """Writes the log into the database and closes it."""
        self._db.close()

    # orders

    def add_orders(self, orders: Sequence[tuple[Envelope, bytes, float]]) -> list[str]:
        """Stores envelopes of one coordinator, all or none, with their end times; returns the sites that have new
        ones. A task that is there keeps its first envelope, unless that has expired without a reply."""
        woken: list[str] = []
        with self._change():
            for envelope, text, until in orders:
                self._own(envelope.run, envelope.sender)
                if self._add_order(envelope, text, until):
                    woken.append(envelope.recipient)
        return woken

    def orders(self, site: str, after: int, now: float) -> Rows:
        """Returns open orders to a site with numbers above `after`, oldest first: up to 500, or 8 MiB of them."""
        query = (
            "SELECT number, text FROM orders WHERE site=? AND state='open' AND number>? AND until>=?"
            " ORDER BY number LIMIT 500"
        )
        return self._rows(query, site, after, now)

    def task(self, task: str) -> OrderedTask | None:
        """Returns a task; None for an unknown id."""
        query = "SELECT run, site, round, reply_bytes, state FROM orders WHERE task=? AND kind='task'"
        row = self._db.execute(query, (task,)).fetchone()
        return OrderedTask(*row) if row else None

    def cancel(self, run: str, coordinator: str, tasks: Iterable[str]) -> None:
        """Withdraws tasks of a run that have no reply."""
        with self._change():
            self._own(run, coordinator)
            query = "UPDATE orders SET state='cancelled' WHERE run=? AND task=? AND state='open'"
            self._db.executemany(query, ((run, task) for task in tasks))

    # answers

    def add_reply(self, envelope: Envelope, text: bytes) -> bool:
        """Stores the reply to a task; True if it is new. Raises Refused (`task-unknown`) unless the site has the task,
        (`reply-changed`) if it has another reply, (`blob-missing`, `reply-size`) for its blobs."""
        with self._change():
            task = self.task(envelope.task)
            if task is None or task.site != envelope.sender or task.run != envelope.run:
                raise Refused(Reason.TASK_UNKNOWN)
            there = self._db.execute("SELECT text FROM answers WHERE task=?", (envelope.task,)).fetchone()
            if there:
                if bytes(there[0]) != text:
                    raise Refused(Reason.REPLY_CHANGED)
                return False
            if task.state != "open":
                raise Refused(Reason.TASK_UNKNOWN, "The task was withdrawn.")
            if sum(blob.bytes for blob in envelope.blobs) > task.reply_bytes:
                raise Refused(Reason.REPLY_SIZE)
            self._answer(envelope, text, "reply", task.round)
            self._db.execute("UPDATE orders SET state='answered' WHERE task=?", (envelope.task,))
            self._db.execute("DELETE FROM links WHERE kind='upload' AND ref=?", (f"{envelope.sender} {envelope.task}",))
        return True

    def add_note(self, envelope: Envelope, text: bytes, most: int) -> None:
        """Stores a site's note to a run's coordinator, once. Raises Refused (`run-other`, `quota`)."""
        with self._change():
            if self.coordinator(envelope.run) != envelope.recipient:
                raise Refused(Reason.RUN_OTHER)
            values = (envelope.run, envelope.sender, hashlib.sha256(text).hexdigest())
            query = "SELECT 1 FROM answers WHERE run=? AND site=? AND kind='note' AND digest=?"
            if self._db.execute(query, values).fetchone():
                return
            query = "SELECT COUNT(*) FROM answers WHERE run=? AND site=? AND kind='note'"
            if self._db.execute(query, (envelope.run, envelope.sender)).fetchone()[0] >= most:
                raise Refused(Reason.QUOTA, f"The hub keeps at most {most} notes of a site in a run.")
            self._answer(envelope, text, "note", envelope.round)

    def answers(self, run: str, coordinator: str, kind: str, after: int) -> Rows:
        """Returns replies or notes of a run with numbers above `after`, oldest first: up to 500, or 8 MiB of them.

        Raises Refused (`run-other`) for another's run."""
        if self.coordinator(run) != coordinator:
            raise Refused(Reason.RUN_OTHER)
        query = "SELECT number, text FROM answers WHERE run=? AND kind=? AND number>? ORDER BY number LIMIT 500"
        return self._rows(query, run, kind, after)

    # runs

    def coordinator(self, run: str) -> str | None:
        """Returns the coordinator of a run; None if the run is unknown."""
        row = self._db.execute("SELECT coordinator FROM runs WHERE run=?", (run,)).fetchone()
        return str(row[0]) if row else None

    def used(self, run: str) -> int:
        """Returns the bytes of a run's blobs."""
        query = "SELECT COALESCE(SUM(bytes), 0) FROM blobs WHERE sha256 IN (SELECT sha256 FROM links WHERE run=?)"
        return int(self._db.execute(query, (run,)).fetchone()[0])

    def settle(self, run: str, coordinator: str, round_number: int) -> list[str]:
        """Drops the links of rounds up to this one; returns the blobs that nothing names any more."""
        with self._change():
            self._own(run, coordinator)
            self._db.execute("DELETE FROM links WHERE run=? AND round<=?", (run, round_number))
            return self._drop_unused()

    def end(self, run: str, coordinator: str) -> list[str]:
        """Removes everything of a run but its name; returns the blobs that nothing names any more."""
        with self._change():
            self._own(run, coordinator)
            return self._end(run)

    def expire(self, before: float) -> list[str]:
        """Ends the runs whose last order expired before that time; returns the blobs that nothing names any more."""
        query = "SELECT run FROM orders GROUP BY run HAVING MAX(until) < ?"
        with self._change():
            return [blob for (run,) in self._db.execute(query, (before,)).fetchall() for blob in self._end(run)]

    def totals(self) -> dict[str, float]:
        """Returns numbers of runs, open tasks and answers, bytes of blobs, and seconds since the oldest open task."""
        one = self._db.execute(
            "SELECT (SELECT COUNT(*) FROM runs WHERE NOT ended),"
            " (SELECT COUNT(*) FROM orders WHERE state='open' AND kind='task'),"
            " (SELECT COUNT(*) FROM answers), (SELECT COALESCE(SUM(bytes), 0) FROM blobs)"
        ).fetchone()
        return dict(zip(("runs", "open_tasks", "answers", "blob_bytes"), map(float, one), strict=True))

    # blobs

    def add_blob(self, sha256: str, size: int, run: str, ref: str, round_number: int | None) -> None:
        """Records an uploaded blob. `ref` names the uploader, and the task or for a coordinator, whose upload has no
        round yet, the run."""
        with self._change():
            if round_number is None:
                self._own(run, ref.partition(" ")[0])
            self._db.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (sha256, size))
            self._db.execute(
                "INSERT OR IGNORE INTO links VALUES (?, ?, 'upload', ?, ?)", (sha256, run, ref, round_number)
            )

    def blob_size(self, sha256: str) -> int | None:
        """Returns the size of a stored blob; None if it is not stored."""
        row = self._db.execute("SELECT bytes FROM blobs WHERE sha256=?", (sha256,)).fetchone()
        return int(row[0]) if row else None

    def in_run(self, sha256: str, run: str) -> bool:
        """True if the run has this blob."""
        query = "SELECT 1 FROM blobs JOIN links USING (sha256) WHERE sha256=? AND run=?"
        return self._db.execute(query, (sha256, run)).fetchone() is not None

    def may_read(self, sha256: str, name: str, *, coordinator: bool) -> bool:
        """True if one of a site's orders names the blob, or one of a coordinator's runs has it."""
        if coordinator:
            query = "SELECT 1 FROM links JOIN runs USING (run) WHERE sha256=? AND coordinator=?"
        else:
            query = (
                "SELECT 1 FROM links JOIN orders ON ref=CAST(number AS TEXT) WHERE sha256=? AND site=?"
                " AND links.kind='order'"
            )
        return self._db.execute(query, (sha256, name)).fetchone() is not None

    def uploaded(self, ref: str) -> int:
        """Returns the bytes of the blobs that were uploaded under `ref`."""
        query = "SELECT COALESCE(SUM(bytes), 0) FROM blobs JOIN links USING (sha256) WHERE kind='upload' AND ref=?"
        return int(self._db.execute(query, (ref,)).fetchone()[0])

    def blobs(self) -> dict[str, int]:
        """Returns the sizes of all stored blobs by name."""
        return dict(self._db.execute("SELECT sha256, bytes FROM blobs").fetchall())

    def forget_blobs(self, missing: Iterable[str]) -> int:
        """Forgets blobs whose files are gone, for example after a backup was restored, and the replies that name them:
        their tasks are open again, and the sites, which keep their replies, send them once more."""
        reopened = 0
        with self._change():
            for sha256 in missing:
                query = "SELECT ref FROM links WHERE sha256=? AND kind='answer'"
                for (number,) in self._db.execute(query, (sha256,)).fetchall():
                    reopened += self._reopen(int(number))
                self._db.execute("DELETE FROM blobs WHERE sha256=?", (sha256,))
                self._db.execute("DELETE FROM links WHERE sha256=?", (sha256,))
        return reopened

    # parts

    def _add_order(self, envelope: Envelope, text: bytes, until: float) -> bool:
        task = envelope.task or None
        if task is not None:
            there = self._db.execute("SELECT run, site, state, until FROM orders WHERE task=?", (task,)).fetchone()
            if there and there[:2] != (envelope.run, envelope.recipient):
                raise Refused(Reason.RUN_OTHER)
            if there and (there[2] == "answered" or (there[2] == "open" and there[3] >= time.time())):
                return False
            self._db.execute("DELETE FROM orders WHERE task=?", (task,))
        values = (envelope.run, envelope.recipient, envelope.kind, task, envelope.round, until, envelope.reply_bytes)
        query = (
            "INSERT INTO orders (number, run, site, kind, task, round, until, reply_bytes, state, text)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'open', ?)"
        )
        number = self._next("orders")
        self._db.execute(query, (number, *values, text))
        round_number = envelope.round if envelope.kind == "task" else None
        self._link(envelope, "order", number, round_number)
        refs = [(blob.sha256, f"{envelope.sender} {envelope.run}") for blob in envelope.blobs]
        self._db.executemany("DELETE FROM links WHERE sha256=? AND kind='upload' AND ref=?", refs)
        return True

    def _answer(self, envelope: Envelope, text: bytes, kind: str, round_number: int) -> None:
        query = (
            "INSERT INTO answers (number, run, site, kind, task, round, digest, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        task = envelope.task if kind == "reply" else None
        number = self._next("answers")
        digest = hashlib.sha256(text).hexdigest()
        values = (number, envelope.run, envelope.sender, kind, task, round_number, digest, text)
        self._db.execute(query, values)
        self._link(envelope, "answer", number, round_number)

    def _next(self, table: str) -> int:
        """The next number of a table: at least the time in milliseconds, so that numbers which were given out before
        an older backup was restored are not given out again, to be passed over by those who ask for later ones."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name=?", (table,)).fetchone()
        return max(int(1000 * time.time()), row[0] + 1 if row else 1)

    def _link(self, envelope: Envelope, kind: str, number: int, round_number: int | None) -> None:
        for blob in envelope.blobs:
            if not self.in_run(blob.sha256, envelope.run) or self.blob_size(blob.sha256) != blob.bytes:
                raise Refused(Reason.BLOB_MISSING)
            values = (blob.sha256, envelope.run, kind, str(number), round_number)
            self._db.execute("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?, ?)", values)

    def _own(self, run: str, coordinator: str) -> None:
        """Registers a new run. Raises Refused (`run-other`) for another coordinator's or one that has ended."""
        self._db.execute("INSERT OR IGNORE INTO runs (run, coordinator) VALUES (?, ?)", (run, coordinator))
        if self._db.execute("SELECT coordinator FROM runs WHERE run=?", (run,)).fetchone() != (coordinator,):
            raise Refused(Reason.RUN_OTHER)

    def _end(self, run: str) -> list[str]:
        for table in ("orders", "answers", "links"):
            self._db.execute(f"DELETE FROM {table} WHERE run=?", (run,))  # noqa: S608 - names from the line above
        self._db.execute("UPDATE runs SET ended=1 WHERE run=?", (run,))
        return self._drop_unused()

    def _drop_unused(self) -> list[str]:
        query = "DELETE FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM links) RETURNING sha256"
        return [str(sha256) for (sha256,) in self._db.execute(query).fetchall()]

    def _reopen(self, number: int) -> int:
        row = self._db.execute("DELETE FROM answers WHERE number=? RETURNING task", (number,)).fetchone()
        if row is None:
            return 0
        self._db.execute("DELETE FROM links WHERE kind='answer' AND ref=?", (str(number),))
        self._db.execute("UPDATE orders SET state='open' WHERE task=?", (row[0],))
        return 1

    def _rows(self, query: str, *values: object) -> Rows:
        found: Rows = []
        size = 0
        for number, text in self._db.execute(query, values):
            size += len(text)
            if found and size > MOST_PAGE:
                break
            found.append((int(number), bytes(text)))
        return found

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction: committed and flushed at the end of the block, undone if it raises."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StorageError(f"the hub's database cannot be written: {error}") from error

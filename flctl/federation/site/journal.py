"""Journal of a site: each step that was asked for, and how far its answer has come.

A row is written, and on disk, before the step begins (`claimed`), once its reply lies in the outbox (`replied`), once
the hub has it (`uploaded`), and once its round is settled. A process that is killed goes on from there.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from flctl.errors import IntegrityError, StorageError
from flctl.federation.reasons import Reason, Refused

__all__ = ["Journal", "SiteStep", "StepState"]

StepState = Literal["claimed", "replied", "uploaded", "settled", "dropped"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    task TEXT PRIMARY KEY, run TEXT NOT NULL, plan TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL,
    attempt INTEGER NOT NULL, work TEXT NOT NULL, state TEXT NOT NULL, bytes INTEGER NOT NULL, time REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_step ON steps (run, round, phase, attempt);
CREATE TABLE IF NOT EXISTS spent (bytes INTEGER NOT NULL, time REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class SiteStep:
    """One step of a run: its task, its place in the run, its work (empty without) as the name of the part, a space
    and its SHA-256, and the state of its answer.

    `bytes` counts what was moved for it, down and up; `time` is when it was claimed, in seconds since 1970.
    """

    task: str
    run: str
    plan: str
    round: int
    phase: str
    attempt: int
    work: str = ""
    state: StepState = "claimed"
    bytes: int = 0
    time: float = 0.0


class Journal:
    """The database `journal.sqlite` of a site's home. Each change is on disk when its method returns.

    >>> journal = Journal.open(Path(":memory:"))
    >>> step = SiteStep("t1", "run", "plan", round=1, phase="1", attempt=0)
    >>> journal.claim(step, once=False)
    >>> journal.move("t1", "replied"), journal.step("t1").state
    (None, 'replied')
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the journal at `path`, and makes it if there is no file. Raises IntegrityError for a damaged file."""
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"{path} is not a journal: {error}",
                hint="Restore it. Without it, ask the coordinator for a new run: steps could be answered twice.",
            ) from error
        return cls(database)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def step(self, task: str) -> SiteStep | None:
        """Returns the step of a task, or None."""
        rows = self._rows("SELECT * FROM steps WHERE task = ?", task)
        return rows[0] if rows else None

    def steps(self, state: StepState, run: str | None = None) -> list[SiteStep]:
        """Returns the steps in a state, oldest first."""
        if run is None:
            return self._rows("SELECT * FROM steps WHERE state = ? ORDER BY time", state)
        return self._rows("SELECT * FROM steps WHERE state = ? AND run = ? ORDER BY time", state, run)

    def of_run(self, run: str) -> list[SiteStep]:
        """Returns all steps of a run, oldest first."""
        return self._rows("SELECT * FROM steps WHERE run = ? ORDER BY round, time", run)

    def since(self, moment: float) -> list[SiteStep]:
        """Returns the steps of all runs that were claimed after `moment`, oldest first."""
        return self._rows("SELECT * FROM steps WHERE time > ? ORDER BY time", moment)

    def newest_round(self, run: str) -> int:
        """Returns the last round in which a step of the run was claimed; 0 before the first."""
        return max((step.round for step in self.of_run(run)), default=0)

    def bytes_since(self, moment: float) -> int:
        """Returns the bytes moved for steps that were claimed, and orders that were refused, after `moment`."""
        claimed = self._all("SELECT COALESCE(SUM(bytes), 0) FROM steps WHERE time > ?", moment)
        refused = self._all("SELECT COALESCE(SUM(bytes), 0) FROM spent WHERE time > ?", moment)
        return int(claimed[0][0]) + int(refused[0][0])

    def spend(self, moved: int) -> None:
        """Records bytes that were fetched for an order that was refused then."""
        with self._written() as database:
            database.execute("INSERT INTO spent VALUES (?, ?)", (moved, time.time()))

    def claim(self, step: SiteStep, *, once: bool) -> None:
        """Records that a step begins.

        A step may be begun again after a kill, as the same task, unless `once`: an aggregator whose answers may not be
        repeated. Raises Refused (`step-claimed`) then, and (`round-changed`) for another task in its place.
        """
        with self._written() as database:
            place = (step.run, step.round, step.phase, step.attempt)
            query = "SELECT * FROM steps WHERE run = ? AND round = ? AND phase = ? AND attempt = ?"
            known = [SiteStep(*row) for row in database.execute(query, place)]
            if known and known[0].task != step.task:
                raise Refused(Reason.ROUND_CHANGED)
            if known and (once or known[0].state != "claimed"):
                raise Refused(Reason.STEP_CLAIMED)
            if not known:
                values = (step.task, step.run, step.plan, step.round, step.phase, step.attempt, step.work)
                database.execute(
                    "INSERT INTO steps VALUES (?,?,?,?,?,?,?,'claimed',?,?)", (*values, step.bytes, time.time())
                )

    def move(self, task: str, state: StepState, moved: int = 0) -> None:
        """Sets the state of a task's step, and adds the bytes that were moved for it."""
        with self._written() as database:
            database.execute("UPDATE steps SET state = ?, bytes = bytes + ? WHERE task = ?", (state, moved, task))

    def settle(self, run: str, round_number: int) -> list[str]:
        """Marks the answered steps of rounds up to `round_number` as settled and returns their tasks."""
        return self._settled("run = ? AND round <= ? AND state IN ('replied', 'uploaded')", run, round_number)

    def drop(self, run: str) -> list[str]:
        """Marks all steps of a run that has ended as settled and returns their tasks."""
        return self._settled("run = ? AND state <> 'settled'", run)

    def _settled(self, condition: str, *values: Any) -> list[str]:
        with self._written() as database:
            tasks = [str(row[0]) for row in database.execute(f"SELECT task FROM steps WHERE {condition}", values)]  # noqa: S608
            database.execute(f"UPDATE steps SET state = 'settled' WHERE {condition}", values)  # noqa: S608
        return tasks

    def fact(self, name: str) -> str | None:
        """Returns a fact that `keep_fact` recorded, or None."""
        rows = self._all("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def keep_fact(self, name: str, value: str) -> None:
        """Records a fact, such as the decision that was last sent for a plan."""
        with self._written() as database:
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _rows(self, query: str, *values: Any) -> list[SiteStep]:
        return [SiteStep(*row) for row in self._all(query, *values)]

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk at its end; undone if the block raises."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise StorageError(f"the journal cannot be written: {error}", hint="Check the free space.") from error

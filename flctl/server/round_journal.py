"""Journal of a round with clients on other machines: a round that a crash cut off is repeated as it was begun.

A line is on disk before the server acts on it: the cohort before a client is asked, random bytes before the aggregator
has them, the counted replies of a phase before the aggregator knows that there are no more. So a resumed round has the
same cohort, sends the same messages, and counts the same replies in its closed phases, even if late replies are there
by then. The journal is removed with the checkpoint of its round, or when the round fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flctl.atomic import sync_directory
from flctl.errors import FlctlError, IntegrityError, RoundFailedError, StorageError
from flctl.types import Ask, ClientId, Failure

__all__ = ["ClosedPhase", "Drawn", "ExchangeRecord", "RoundJournal"]

_HINT = "Remove the journal to start the round anew; clients may then refuse what they answered before."


@dataclass(frozen=True, slots=True)
class Drawn:
    """The clients that a round asks, and those of its cohort that were away."""

    asked: tuple[ClientId, ...]
    away: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class ClosedPhase:
    """A phase of an exchange that is over: the clients whose replies were counted, in order, and why others failed."""

    counted: tuple[ClientId, ...]
    failed: Mapping[ClientId, Failure]


@dataclass(slots=True)
class ExchangeRecord:
    """One exchange of a round: what was recorded before a crash is played first, then new lines are added.

    Without a journal, nothing is recorded.
    """

    ask: Ask = "train"
    journal: RoundJournal | None = None
    drawn: Drawn | None = None
    phases: list[ClosedPhase] = field(default_factory=list)
    random: list[bytes] = field(default_factory=list)

    def draw(self, drawn: Drawn) -> None:
        """Records the cohort, unless it is the recorded one."""
        if self.drawn is None:
            self.drawn = drawn
            self._add(kind="cohort", asked=list(drawn.asked), away=list(drawn.away))

    def fresh(self, count: int) -> bytes:
        """Returns random bytes: those that were recorded, in their order, then new ones.

        Raises IntegrityError if another number of bytes was recorded.
        """
        if self.random:
            found = self.random.pop(0)
            if len(found) != count:
                raise IntegrityError(f"a round's journal has {len(found)} random bytes, expected {count}", hint=_HINT)
            return found
        found = os.urandom(count)
        self._add(kind="fresh", bytes=found.hex())
        return found

    def closed(self) -> ClosedPhase | None:
        """Returns the next phase if it was closed before a crash; None for a phase that is still open."""
        return self.phases.pop(0) if self.phases else None

    def close(self, counted: list[ClientId], failed: Mapping[ClientId, Failure]) -> None:
        """Records that a phase is over."""
        reasons = {client: [failure.kind, failure.message] for client, failure in failed.items()}
        self._add(kind="phase", counted=counted, failed=reasons)

    def gone(self, client: ClientId, failure: Failure) -> RoundFailedError:
        """Returns the error for a reply that was counted before a crash and is not there any more."""
        return RoundFailedError(
            f"the reply of client '{client}' was counted before the run was interrupted, and is not available: "
            f"{failure.message}",
            hint="Resume the run when the client is back.",
        )

    def _add(self, **values: Any) -> None:
        if self.journal is not None:
            self.journal.add({"ask": self.ask, **values})


class RoundJournal:
    """The journal of round `round_number` in a folder; it is read when it is first used."""

    def __init__(self, folder: Path, round_number: int) -> None:
        self.path = folder / f"round-{round_number}.journal"
        self._lines = self._read()

    def exchange(self, ask: Ask) -> ExchangeRecord:
        """Returns the record of the round's exchange for `ask`."""
        record = ExchangeRecord(ask, self)
        for line in self._lines:
            if line["ask"] != ask:
                continue
            if line["kind"] == "cohort":
                record.drawn = Drawn(tuple(line["asked"]), tuple(line["away"]))
            elif line["kind"] == "fresh":
                record.random.append(bytes.fromhex(line["bytes"]))
            else:
                failed = {client: Failure(kind, message) for client, (kind, message) in line["failed"].items()}
                record.phases.append(ClosedPhase(tuple(line["counted"]), failed))
        return record

    def add(self, line: Mapping[str, Any]) -> None:
        """Appends a line; it is on disk when this returns. Raises StorageError if it cannot be written."""
        try:
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_directory(self.path.parent)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Removes the journal: its round is in a checkpoint, or failed."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def kept_unless_failed(self) -> Iterator[None]:
        """Removes the journal if the round fails, so that a later attempt asks anew; a crash leaves it."""
        try:
            yield
        except FlctlError:
            self.remove()
            raise

    def _read(self) -> list[dict[str, Any]]:
        """Reads the journal. A last line that was cut off is dropped, from the file too: nothing rests on it."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(self.path, len(whole))
        try:
            lines = [json.loads(text) for text in whole.splitlines()]
            for line in lines:
                _require_whole(line)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{self.path} is damaged", hint=_HINT) from error
        return lines


def _require_whole(line: Any) -> None:
    """Raises KeyError or TypeError if a line lacks a part."""
    parts = {"cohort": ("asked", "away"), "fresh": ("bytes",), "phase": ("counted", "failed")}[line["kind"]]
    for part in ("ask", *parts):
        _ = line[part]

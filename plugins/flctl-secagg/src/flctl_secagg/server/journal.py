"""Server's journal of a run: the outcome of each session in a hash chain, and the sums of the newest rounds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from flctl import IntegrityError, StorageError
from flctl_secagg.encoding.packing import Words, lane
from flctl_secagg.protocol.parameters import GENESIS, Parameters
from flctl_secagg.protocol.past import Past, heads, link

__all__ = ["JOURNAL", "Journal", "Outcome", "Sum", "chained"]

JOURNAL, OPEN, SUMS, TRANSCRIPTS = "sessions.jsonl", "session.open", "sums", "transcripts"
End = Literal["summed", "burnt", "ended", "cut"]
_KEPT = 2
"""Number of newest rounds whose sums are kept. A checkpoint follows each round, so older rounds never run again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a session.

    `end`: `summed`; `burnt` if it failed after shares were opened; `ended` if it failed before; `cut` if the server
    was stopped during it. `sum` is the SHA-256 of the summed words, and `transcript` that of the transcript, if one is
    kept. `ask` is what clients were asked for: to train, or for sums over their rows.
    """

    round: int
    sid: str
    end: End
    survivors: tuple[str, ...] = ()
    sum: str | None = None
    transcript: str | None = None
    ask: str = "train"

    def is_end_of(self, ask: str) -> bool:
        """True if this ends the sums of a round that were asked for by `ask`."""
        return self.ask == ask and self.end in ("summed", "burnt")

    @property
    def link(self) -> bytes:
        """Link of the session in the hash chain."""
        return link(bytes.fromhex(self.sid), self.line())

    def line(self) -> bytes:
        """Returns the outcome as a line of the journal."""
        values = dataclasses.asdict(self)
        if self.ask == "train":
            del values["ask"]
        return json.dumps(values, sort_keys=True).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Sum:
    """A published sum: the session's parameters, the survivors, and their summed words."""

    parameters: Parameters
    survivors: tuple[str, ...]
    words: Words


def chained(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, Outcome]]:
    """Yields each outcome with the hash-chain digest of all before it (hex SHA-256), which its session id binds."""
    head, before = bytes.fromhex(GENESIS), None
    for outcome in outcomes:
        if before is not None:
            *_, head = heads(head, before.link)
        yield head.hex(), outcome
        before = outcome


@dataclass(frozen=True)
class Journal:
    """Journal in the directory `path`. Without a path, nothing is kept."""

    path: Path | None

    def head(self) -> str:
        """Returns the hash-chain digest of all outcomes."""
        found = self.outcomes()
        *_, (head, _) = chained([*found, Outcome(0, "", "ended")])
        return head

    def past(self, head: str | None = None) -> Past:
        """Returns the links of all outcomes, or of those up to this head."""
        earlier = takewhile(lambda one: one[0] != head, chained(self.outcomes()))
        return Past(b"".join(outcome.link for _, outcome in earlier))

    def begun_in(self, round_number: int) -> list[tuple[str, str]]:
        """Lists the sessions of a round that were begun: the head before each, and its id."""
        found = [(head, one.sid) for head, one in chained(self.outcomes()) if one.round == round_number]
        begun = self.begun()
        return [*found, (self.head(), begun.sid)] if begun is not None and begun.round == round_number else found

    def begin(self, round_number: int, sid: bytes) -> None:
        """Records that a session begins, flushed to disk when this returns: clients remember its id, so that it has to
        have an outcome even if the server is stopped during it."""
        if self.path is not None:
            _write(self.path / OPEN, json.dumps({"round": round_number, "sid": sid.hex()}).encode())

    def begun(self) -> Outcome | None:
        """Returns the outcome `cut` of a session that began and has no outcome; None if there is no such session."""
        path = None if self.path is None else self.path / OPEN
        if path is None or not path.is_file():
            return None
        try:
            values = json.loads(path.read_bytes())
            found = Outcome(int(values["round"]), str(values["sid"]), "cut")
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"{path} is not a record of a session", hint="Restore it from a backup.") from error
        return None if any(one.sid == found.sid for one in self.outcomes()) else found

    def publish(self, outcome: Outcome, found: Sum) -> None:
        """Writes a sum and its outcome, flushed to disk when this returns; removes the sums of old rounds."""
        if self.path is None:
            return
        folder, raw = self.path / SUMS, found.words.tobytes()
        header = {"parameters": found.parameters.canonical().decode(), "survivors": found.survivors}
        _write(folder / _name(outcome.round, outcome.ask), json.dumps(header).encode() + b"\n" + raw)
        self.keep(dataclasses.replace(outcome, sum=hashlib.sha256(raw).hexdigest()))
        for old in sorted(folder.glob(_name(None, outcome.ask)))[:-_KEPT]:
            old.unlink(missing_ok=True)

    def keep(self, outcome: Outcome) -> None:
        """Records the outcome of a session, unless it is there: the server repeats sessions after it was stopped."""
        if not any(one.sid == outcome.sid for one in self.outcomes()):
            self.record(outcome)

    def record(self, outcome: Outcome) -> None:
        """Appends the outcome of a session, flushed to disk when this returns."""
        if self.path is None:
            return
        path = self.path / JOURNAL
        whole = b"".join(one.line() for one in self.outcomes())  # without an incomplete last line
        if path.is_file() and path.stat().st_size != len(whole):
            _write(path, whole)
        _append(path, outcome.line())

    def outcomes(self) -> list[Outcome]:
        """Reads all outcomes, in the order of their sessions, without an incomplete last line (a killed process leaves
        one). Raises IntegrityError if another line is not an outcome."""
        if self.path is None or not (self.path / JOURNAL).is_file():
            return []
        lines = (self.path / JOURNAL).read_bytes().split(b"\n")[:-1]
        return [_outcome(self.path / JOURNAL, line) for line in lines]

    def sum_of(self, run: str, round_number: int, work: str, ask: str = "train") -> Sum | None:
        """Returns the published sum of a round if it is of this run and this work; else None."""
        path = None if self.path is None else self.path / SUMS / _name(round_number, ask)
        if path is None or not path.is_file():
            return None
        head, _, raw = path.read_bytes().partition(b"\n")
        found, digest = _sum(path, head, raw), hashlib.sha256(raw).hexdigest()
        known = any((one.round, one.end, one.sum) == (round_number, "summed", digest) for one in self.outcomes())
        asked = (found.parameters.run, found.parameters.round, found.parameters.work)
        return found if known and asked == (run, round_number, work) else None

    def burnt_before(self, round_number: int) -> int:
        """Number of consecutive rounds before `round_number` that are burnt."""
        ends = {one.round: one.end for one in self.outcomes() if one.is_end_of("train")}
        count = 0
        while ends.get(round_number - 1 - count) == "burnt":
            count += 1
        return count


def _name(round_number: int | None, ask: str) -> str:
    """Returns the name of a round's sum; the pattern of all rounds for None."""
    number = "*[0-9]" if round_number is None else f"{round_number:05d}"
    return f"round-{number}.sum" if ask == "train" else f"round-{number}-{ask}.sum"


def _outcome(path: Path, line: bytes) -> Outcome:
    try:
        values = json.loads(line)
        return Outcome(**{**values, "survivors": tuple(values["survivors"])})
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path} has a line that is not the outcome of a session", hint="Restore it.") from error


def _sum(path: Path, head: bytes, raw: bytes) -> Sum:
    try:
        values = json.loads(head)
        parameters = Parameters.read(values["parameters"].encode())
        words = np.frombuffer(raw, lane(parameters.bits))
        if words.size != parameters.words:
            raise ValueError(f"{words.size} words, expected {parameters.words}")
        return Sum(parameters, tuple(values["survivors"]), words)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is not a published sum", hint="Remove it; its round is repeated.") from error


def _write(path: Path, data: bytes) -> None:
    """Writes a file atomically, with mode 0600."""
    partial = path.with_name(path.name + ".partial")
    _flushed(partial, os.O_TRUNC, data)
    os.replace(partial, path)


def _append(path: Path, data: bytes) -> None:
    _flushed(path, os.O_APPEND, data)


def _flushed(path: Path, mode: int, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | mode, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error

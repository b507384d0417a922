"""The site's record: one hash-chained line for everything asked, decided, refused and sent.

Each line holds the SHA-256 of the line before it. Beside the log lies its head, signed by the site: a log that ends
before the head was cut. The hub's receipts, which are lines themselves, countersign earlier heads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from flctl.atomic import write_file
from flctl.errors import IntegrityError, ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import sign, verify
from flctl.federation.plan.moments import now_text

__all__ = ["AuditHead", "AuditLine", "AuditLog"]

HEAD_PURPOSE = "flctl/audit-head/1"
START = "0" * 64
MOST_LINE = 1 << 20
HINT = "Restore the log from a backup; ask the hub's operator for the last receipt, which names the head it had."


@dataclass(frozen=True)
class AuditHead:
    """The end of the log: the number of its lines, and the SHA-256 of the last one."""

    lines: int
    digest: str


@dataclass(frozen=True)
class AuditLine:
    """One line: its number from 1, UTC time, kind, and what it records."""

    number: int
    at: str
    kind: str
    facts: Mapping[str, Any]


class AuditLog:
    """The record of a site in `path`, and its signed head in `path` with the suffix `.head`.

    Lines that were read and verified once are kept, so that a look at the newest reads what was added alone.

    >>> import tempfile
    >>> from flctl.federation.identity.keys import Identity
    >>> log = AuditLog(Path(tempfile.mkdtemp()) / "audit.jsonl", Identity.new())
    >>> log.append("asked", {"run": "stroke-1"}).lines
    1
    >>> [line.kind for line in log.lines()]
    ['asked']
    """

    def __init__(self, path: Path, identity: Identity | None = None) -> None:
        self.path = path
        self._identity = identity
        self._lines: list[AuditLine] = []
        self._end, self._digest = 0, START

    def append(self, kind: str, facts: Mapping[str, Any], at: datetime | None = None) -> AuditHead:
        """Adds a line, on disk when this returns. Raises IntegrityError if the log was changed, or without the
        site's identity, which signs the new head."""
        signer = self._signer()
        with self._locked():
            self.read()
            entry = {
                "at": now_text(at or datetime.now(UTC)),
                "facts": facts,
                "kind": kind,
                "number": len(self._lines) + 1,
                "previous": self._digest,
            }
            line = canonical(entry)
            if len(line) > MOST_LINE:
                raise ProtocolError(f"a line of the audit log has {len(line):,} bytes, expected at most {MOST_LINE:,}")
            with self.path.open("ab") as stream:
                stream.write(line + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            self.read()
            head = {"digest": self._digest, "lines": len(self._lines)}
            write_file(self._head_path, sign(signer, HEAD_PURPOSE, head))
            return self.head

    def lines(self) -> list[AuditLine]:
        """Returns all lines. Raises IntegrityError for a log that was changed, cut or added to."""
        with self._locked():
            self.read()
            return list(self._lines)

    @property
    def head(self) -> AuditHead:
        """The end of the log as it was last read."""
        return AuditHead(len(self._lines), self._digest)

    def verify(self, by: bytes | None = None) -> AuditHead:
        """Reads the whole log again and returns its head. Raises IntegrityError at the first line that does not follow
        from the one before, if the log ends before its signed head, or for a receipt of another head.

        `by` is the site's Ed25519 key, which signed the head.
        """
        self._lines, self._end, self._digest = [], 0, START
        with self._locked():
            self.read()
            self._check_head(by)
            self._check_receipts()
        return self.head

    def receipt(self, receipt: Mapping[str, Any]) -> AuditHead:
        """Adds the hub's receipt of an envelope that named a head. Raises IntegrityError if no such head was there.

        `receipt` has that head's "lines" and "digest", and whatever proves it: the envelope and the hub's statement.
        """
        with self._locked():
            self.read()
            self._check_receipt(receipt)
        return self.append("receipt", receipt)

    def read(self) -> None:
        """Reads and verifies the lines that were added since the last time."""
        try:
            with self.path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size < self._end:
                    raise self._changed(len(self._lines), "it is shorter than it was")
                stream.seek(self._end)
                added = stream.read()
        except FileNotFoundError:
            if self._end:
                raise self._changed(len(self._lines), "it is no longer there") from None
            return
        for line in self._whole(added):
            self._take(line)

    def _whole(self, added: bytes) -> Iterator[bytes]:
        *whole, rest = added.split(b"\n")
        yield from whole
        if rest:
            # The power failed while a line was written: nothing rests on a line that was never whole.
            if self._identity is None:
                return
            with self.path.open("r+b") as stream:
                stream.truncate(self._end)
                os.fsync(stream.fileno())

    def _take(self, line: bytes) -> None:
        number = len(self._lines) + 1
        try:
            entry = parse(line, MOST_LINE)
        except ProtocolError as error:
            raise self._changed(number, error.message) from error
        if not isinstance(entry, dict) or set(entry) != {"at", "facts", "kind", "number", "previous"}:
            raise self._changed(number, "it has other fields than a line of the log")
        if entry["previous"] != self._digest or entry["number"] != number:
            raise self._changed(number, "it does not follow from the line before it")
        self._lines.append(AuditLine(number, entry["at"], entry["kind"], entry["facts"]))
        self._digest = hashlib.sha256(line).hexdigest()
        self._end += len(line) + 1

    def _check_head(self, by: bytes | None) -> None:
        key = by or (self._identity.public.signing if self._identity else None)
        try:
            text = self._head_path.read_bytes()
        except FileNotFoundError:
            if self._lines:
                raise self._changed(len(self._lines), "its signed head is not there") from None
            return
        signed = verify(text, HEAD_PURPOSE, key).statement
        self._check_receipt(signed)
        if len(self._lines) - signed["lines"] > 1:  # one line may be there before its head, when the power failed
            raise self._changed(signed["lines"] + 1, "it was added without the site's signature")

    def _check_receipts(self) -> None:
        for line in self._lines:
            if line.kind == "receipt":
                self._check_receipt(line.facts)

    def _check_receipt(self, receipt: Mapping[str, Any]) -> None:
        count = receipt.get("lines")
        if type(count) is not int or not 0 <= count <= len(self._lines):
            raise self._changed(len(self._lines), f"it ends before line {count}, which was signed for")
        if self._digest_at(count) != receipt.get("digest"):
            raise self._changed(count, "another line was signed for")

    def _digest_at(self, count: int) -> str:
        if count == len(self._lines):
            return self._digest
        with self.path.open("rb") as stream:
            lines = stream.read(self._end).split(b"\n")
        return hashlib.sha256(lines[count - 1]).hexdigest() if count else START

    def _signer(self) -> Identity:
        if self._identity is None:
            raise IntegrityError("the audit log is open for reading alone")
        return self._identity

    @property
    def _head_path(self) -> Path:
        return self.path.with_name(self.path.name + ".head")

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.path}.lock")

    def _changed(self, number: int, why: str) -> IntegrityError:
        return IntegrityError(f"the audit log was changed: line {number}: {why}", hint=HINT)

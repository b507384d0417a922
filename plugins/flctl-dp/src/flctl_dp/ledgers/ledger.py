"""The privacy ledger of a population: the releases of all runs, in a hash chain.

One JSON object a line. The first names the population, the unit and the neighbouring relation. Each later line is a
charge, on disk before the releases that it stands for are made. A line's `digest` is over its other fields, including
the digest of the line before it. FILE.head holds the number of lines and the last digest, so that truncation is
detected; the checkpoint of each run holds the digest of the run's last charge, so that a fork is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from flctl import IncompatibleError, IntegrityError, StorageError
from flctl.errors import counted

from flctl_dp.accounting.releases import RELATIONS, Relation, Release, Releases
from flctl_dp.accounting.summed_release import release_of

__all__ = ["FORMAT", "Charge", "Ledger", "LedgerFile", "Promise", "Unit"]

Unit = Literal["client", "example"]
"""The unit of privacy: a client of a population, or a row of one client."""

FORMAT = "flctl-dp-ledger/1"
_MOST = 1 << 30
"""Largest ledger that is read, in bytes."""
_HEAD = ".head"
_BEGIN = b'{"digest":"'
"""First bytes of each line."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The terms of the run that was charged: its delta, its target epsilon (None: no budget), and the number of units
    in the population. None and 0 in the lines of earlier versions."""

    delta: float | None = None
    target: float | None = None
    units: int = 0

    def fields(self) -> dict[str, Any]:
        """The promise as plain values."""
        given = {"delta": self.delta, "target": self.target, "units": self.units}
        return {name: value for name, value in given.items() if value}

    @classmethod
    def of(cls, line: Mapping[str, Any], where: str) -> Promise:
        """Reads the promise in a ledger's line. Raises IntegrityError for other types."""
        delta, target, units = line.get("delta"), line.get("target"), line.get("units", 0)
        are_numbers = all(one is None or type(one) is float for one in (delta, target))
        if not are_numbers or type(units) is not int or units < 0:
            raise IntegrityError(f"{where} has no number as delta, target or units", hint=_RESTORE)
        return cls(delta, target, units)


@dataclass(frozen=True, slots=True)
class Charge:
    """`count` equal releases by a run, in one of its rounds."""

    run: str
    round: int
    release: Release
    digest: str
    count: int = 1
    promise: Promise = Promise()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The contents of a ledger: the population's name, its relation, and its charges in order."""

    population: str
    relation: Relation
    genesis: str
    charges: tuple[Charge, ...]
    unit: Unit = "client"

    @property
    def head(self) -> str:
        """The digest of the last line."""
        return self.charges[-1].digest if self.charges else self.genesis

    @property
    def promise(self) -> Promise:
        """The terms of the last charge; the target is the last that any run set, with the delta that it was set for."""
        last = self.charges[-1].promise if self.charges else Promise()
        promises = (charge.promise for charge in reversed(self.charges))
        budget = next((promise for promise in promises if promise.target is not None), last)
        return replace(last, target=budget.target, delta=budget.delta)

    def releases(self, run: str | None = None) -> Releases:
        """The releases of all runs, or of one."""
        counted: Counter[Release] = Counter()
        for charge in self.charges:
            if run is None or charge.run == run:
                counted[charge.release] += charge.count
        return counted

    def holds(self, digest: str) -> bool:
        """True if a line has this digest."""
        return digest == self.genesis or any(charge.digest == digest for charge in self.charges)


class LedgerFile:
    """A ledger on disk, at `path`. A link is followed, so that all processes share one lock and one head."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve() if path.is_symlink() else path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from charging. Raises StorageError after a minute."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=60)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"another process has held {self.path} for a minute",
                hint="Wait for that process to end, or terminate it.",
            ) from error
        except OSError as error:
            raise StorageError(
                f"the privacy ledger {self.path} cannot be written: {error.strerror}",
                hint="If the partition is read-only, keep the ledger elsewhere: -o transforms.dp.ledger=PATH, with the "
                "transform's own name for dp.",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def read(self) -> Ledger | None:
        """Returns the ledger, or None if it does not exist yet. Raises IntegrityError if changed or truncated."""
        head = self._head()
        if not self.path.exists():
            if head is not None:
                raise IntegrityError(f"{self.path} is missing, and had {counted(head[0], 'line')}", hint=_RESTORE)
            return None
        if self.path.stat().st_size > _MOST:
            raise IntegrityError(f"{self.path} is larger than {_MOST} bytes")
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # a kill cut the rest off before its release was made
        if head is None and not whole and data[: len(_BEGIN)] == _BEGIN[: len(data)]:
            return None  # a kill cut its first line off
        ledger = _parsed(self.path, whole)
        count = 1 + len(ledger.charges)
        if head is not None and (count < head[0] or [*_digests(ledger)][head[0] - 1] != head[1]):
            raise IntegrityError(
                f"{self.path} has lost lines: it had {head[0]}, with another last digest", hint=_RESTORE
            )
        return ledger

    def open(self, population: str, relation: Relation, unit: Unit = "client") -> Ledger:
        """Returns the ledger, created if missing; call under `locked`. Raises IncompatibleError if it is kept for
        another neighbouring relation or unit."""
        ledger = self.read()
        if ledger is None:
            genesis = {
                "format": FORMAT,
                "population": population,
                "unit": unit,
                "relation": relation,
                "nonce": secrets.token_hex(16),
            }
            self._append(_sealed(genesis), 1)
            ledger = self.read()
        if ledger is None:
            raise StorageError(f"{self.path} was removed during creation")
        if ledger.unit != unit:
            raise IncompatibleError(
                f"{self.path} is kept for the unit {ledger.unit}, and this run accounts for the unit {unit}",
                hint="Use a separate ledger for each unit (transforms.NAME.ledger).",
            )
        if ledger.relation != relation:
            raise IncompatibleError(
                f"{self.path} is kept for the relation {ledger.relation}, and this run accounts {relation}: the two "
                "cannot be composed",
                hint=f"Use the relation {ledger.relation}, with a sampling that has it, or start a new ledger with -o "
                "transforms.dp.ledger=PATH. All samplings have zero-out: use it from the first run on (-o "
                "transforms.dp.relation=zero-out) to compose runs with several samplings.",
            )
        return ledger

    def charge(
        self,
        ledger: Ledger,
        run: str,
        round_number: int,
        release: Release,
        count: int = 1,
        promise: Promise | None = None,
    ) -> Charge:
        """Appends a charge of `count` releases in a round, on disk; call under the same `locked` as `open`."""
        promise = promise or Promise()
        line = {
            "previous": ledger.head,
            "run": run,
            "round": round_number,
            "release": release.fields(),
            **promise.fields(),
        }
        sealed = _sealed(line if count == 1 else {**line, "count": count})
        self._append(sealed, 2 + len(ledger.charges))
        return Charge(run, round_number, release, sealed["digest"], count, promise)

    def _append(self, line: dict[str, Any], count: int) -> None:
        data = (json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("ab") as file:
            _cut_torn_end(self.path, file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync_directory(self.path.parent)
        self._keep_head(count, line["digest"])

    def _head(self) -> tuple[int, str] | None:
        path = self.path.with_name(self.path.name + _HEAD)
        if not path.is_file():
            return None
        count, _, digest = path.read_text(encoding="ascii", errors="replace")[:200].strip().partition(" ")
        if not count.isdecimal() or int(count) < 1:
            raise IntegrityError(f"{path} is not a number of lines and a digest", hint=_RESTORE)
        return int(count), digest

    def _keep_head(self, count: int, digest: str) -> None:
        path = self.path.with_name(self.path.name + _HEAD)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="ascii") as file:
            file.write(f"{count} {digest}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


_RESTORE = "Restore it from a copy: without it, earlier releases about these clients cannot be accounted."


def _parsed(path: Path, data: bytes) -> Ledger:
    """Parses whole lines. A prefix that this process parsed before, with the same digest, is not parsed again."""
    length, digest, known = _KNOWN.get(path, (0, "", None))
    same = known is not None and hashlib.sha256(data[:length]).hexdigest() == digest
    lines = data[length if same else 0 :].split(b"\n")[:-1]
    ledger = _extended(path, known, lines) if same and known is not None else _parse(path, lines)
    _KNOWN[path] = len(data), hashlib.sha256(data).hexdigest(), ledger
    return ledger


_KNOWN: dict[Path, tuple[int, str, Ledger | None]] = {}
"""Path -> the number of bytes that were parsed, their digest, and the ledger in them."""


def _parse(path: Path, lines: list[bytes]) -> Ledger:
    if not lines:
        raise IntegrityError(f"{path} has no first line", hint=_RESTORE)
    first = _object(f"{path}:1", lines[0])
    if not isinstance(first.get("format"), str):
        raise IntegrityError(f"{path}:1 is not the first line of a ledger", hint=_RESTORE)
    if first["format"] != FORMAT:
        raise IncompatibleError(f"{path} has the format {first['format'][:40]!r}; this reads {FORMAT!r}")
    population, relation = first.get("population"), first.get("relation")
    if not isinstance(population, str) or relation not in RELATIONS or first.get("unit") not in get_args(Unit):
        raise IntegrityError(f"{path}:1 lacks population, relation or unit", hint=_RESTORE)
    return _extended(path, Ledger(population, relation, first["digest"], (), first["unit"]), lines[1:])


def _extended(path: Path, ledger: Ledger, lines: list[bytes]) -> Ledger:
    """The ledger with further lines, each checked against the one before it."""
    previous, charges = ledger.head, list(ledger.charges)
    for line_number, text in enumerate(lines, 2 + len(charges)):
        where = f"{path}:{line_number}"
        line = _object(where, text)
        if line.get("previous") != previous:
            raise IntegrityError(f"{where} does not follow the line before it", hint=_RESTORE)
        if not isinstance(line.get("run"), str) or type(line.get("round")) is not int:
            raise IntegrityError(f"{where} has no round of a run", hint=_RESTORE)
        count = line.get("count", 1)
        if type(count) is not int or count < 1:
            raise IntegrityError(f"{where} has no number of releases", hint=_RESTORE)
        previous = line["digest"]
        release, promise = release_of(line.get("release"), where), Promise.of(line, where)
        charges.append(Charge(line["run"], line["round"], release, previous, count, promise))
    return replace(ledger, charges=tuple(charges)) if lines else ledger


def _object(where: str, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not JSON", hint=_RESTORE) from error
    if not isinstance(line, dict) or line.get("digest") != _digest({k: v for k, v in line.items() if k != "digest"}):
        raise IntegrityError(f"{where} was changed after it was written", hint=_RESTORE)
    return line


def _digests(ledger: Ledger) -> Iterator[str]:
    yield ledger.genesis
    yield from (charge.digest for charge in ledger.charges)


def _sealed(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "digest": _digest(line)}


def _digest(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _cut_torn_end(path: Path, file: Any) -> None:
    """Removes a line that a kill cut off: it stands for no release, since noise is drawn after the line is on disk."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        file.truncate(whole)


def _sync_directory(folder: Path) -> None:
    if os.name == "nt":  # directories cannot be synced there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The registry of ledgers on this machine, by the source rows that they are about.

A data set that is partitioned again has another partition, and so another default ledger, in which earlier runs do not
count. The registry finds such ledgers by the digest of the rows as they were read. It catches honest mistakes, on one
machine: edits of the rows or of the registry evade it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["other_ledgers", "register_ledger"]

_MOST = 1 << 22
"""Largest registry that is read, in bytes."""


def register_ledger(rows: str, ledger: Path) -> None:
    """Records that a ledger is about the source rows with the digest `rows`. A failure is suppressed: the ledger
    itself, not the registry, carries the guarantee."""
    path = _path()
    known = _read(path)
    named = ledger.resolve().as_posix()
    if named in known.get(rows, ()):
        return
    kept = {digest: [one for one in paths if Path(one).exists()] for digest, paths in known.items()}
    kept[rows] = [*kept.get(rows, ()), named]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({digest: paths for digest, paths in kept.items() if paths}), encoding="utf-8")
        os.replace(partial, path)


def other_ledgers(rows: str, ledger: Path) -> list[Path]:
    """The other ledgers about the same source rows that still exist."""
    own = ledger.resolve()
    return [path for one in _read(_path()).get(rows, ()) if (path := Path(one)) != own and path.exists()]


def _path() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "flctl" / "privacy-ledgers.json"


def _read(path: Path) -> dict[str, list[str]]:
    """The registry; nothing if it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _MOST:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {
                str(digest): [str(one) for one in paths]
                for digest, paths in (found.items() if isinstance(found, dict) else ())
                if isinstance(paths, list)
            }
    return {}

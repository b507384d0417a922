"""Directories that flctl wrote itself, told apart by the format in their first file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flctl.errors import DataError, command_line

__all__ = ["directory_kind", "refuse_own_directory"]

_FILES: tuple[tuple[Literal["partition", "run"], str, bytes], ...] = (
    ("partition", "manifest.json", b'"flctl-partition/'),
    ("run", "run.json", b'"flctl-run/'),
)
_BYTES = 1 << 16
"""Bytes at the start of a file that are searched for its format."""


def directory_kind(path: Path) -> Literal["partition", "run"] | None:
    """Returns the kind of directory, or None for anything else."""
    for kind, name, mark in _FILES:
        try:
            with (path / name).open("rb") as file:
                if mark in file.read(_BYTES):
                    return kind
        except OSError:
            continue
    return None


def refuse_own_directory(source: str) -> None:
    """Raises DataError for a partition or a run in the place of a source."""
    kind = directory_kind(Path(source))
    if kind == "partition":
        see, rows = ("inspect", source), ("export", source, "--client", "ID", "--out", "FILE")
        raise DataError(
            f"{source} is a partition, not a source",
            hint=f"See it: {command_line('flctl', 'partition', *see)}. A client's rows as a source: "
            f"{command_line('flctl', 'partition', *rows)}",
        )
    if kind == "run":
        raise DataError(
            f"{source} is a run, not a source", hint=f"See its model: {command_line('flctl', 'eval', source)}"
        )

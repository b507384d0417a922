"""JSON tables: a row as an object on each line (JSON Lines), or all rows in one array."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flctl.data.extras import optional
from flctl.data.packed import PACKED, opened
from flctl.data.readers.columnar import ColumnarReader
from flctl.data.typed import TypedFile
from flctl.errors import DataError, FlctlError

__all__ = ["JsonReader"]

_LINES = tuple(f"{stem}{packed}" for stem in (".jsonl", ".ndjson") for packed in PACKED)
START = 4096


class JsonReader(ColumnarReader):
    """Tables in JSON: objects with the columns' names, one on each line or in one array (jsonlines.org)."""

    name = "json"
    extensions = _LINES

    @classmethod
    def reads(cls, source: str) -> bool:
        """True for .jsonl and .ndjson, and for a .json file that begins as rows do."""
        path = Path(source)
        return super().reads(source) or (path.is_file() and path.suffix.lower() == ".json" and _has_rows(path))

    def open_file(self, path: Path) -> TypedFile:
        """The file, read into memory as a whole."""
        return _JsonFile(path, _read(path))


@dataclass(frozen=True)
class _JsonFile:
    path: Path
    table: Any

    @cached_property
    def schema(self) -> Any:
        """Types as they were found."""
        return self.table.schema

    def batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Record batches of the named columns."""
        yield from self.table.select(list(names)).combine_chunks().to_batches()


def _has_rows(path: Path) -> bool:
    """True if the file begins with an array of objects, or with a line that is an object."""
    with path.open("rb") as stream:
        start = stream.read(START).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return start[1:].lstrip().startswith(b"{")
    first, newline, _ = start.partition(b"\n")
    return bool(newline) and first.startswith(b"{") and first.rstrip().endswith(b"}")


def _read(path: Path) -> Any:
    pa, reader = (optional(name, "pyarrow", "JSON files") for name in ("pyarrow", "pyarrow.json"))
    try:
        with opened(path) as stream:
            data = stream.read()
        if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            table = pa.Table.from_pylist(json.loads(data))
        else:
            block = reader.ReadOptions(block_size=max(1 << 20, data.find(b"\n") * 16, len(data) // 64))
            table = reader.read_json(pa.BufferReader(data.removeprefix(b"\xef\xbb\xbf")), read_options=block)
    except (pa.ArrowException, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise _unreadable(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not table.num_rows:
        raise DataError(f"{path.name} has no rows")
    return table


def _unreadable(path: Path, reason: str) -> FlctlError:
    return DataError(
        f"{path.name} cannot be read as JSON rows: {reason[:200]}",
        hint="Each line, or each item of one array, is an object with the same keys and types.",
    )

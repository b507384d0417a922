"""Parquet, and Arrow IPC or Feather: typed columns, read batch by batch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flctl.data.columns import CellError
from flctl.data.dialect import numbers_rows
from flctl.data.extras import optional
from flctl.data.schema import ColumnPlan, Declared, refuse_duplicates
from flctl.data.table import Batch, Sheets, TableReader
from flctl.data.table_files import other_schema
from flctl.errors import DataError, FlctlError, IntegrityError, counted

__all__ = ["ArrowReader", "ParquetReader"]

ROWS = 65_536
MAGIC_PARQUET, MAGIC_ARROW, MAGIC_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
END_OF_STREAM = MAGIC_STREAM + b"\0\0\0\0"


class _Columnar(TableReader):
    """Base class of the readers of typed tables."""

    magic: ClassVar[bytes]

    def open(self, paths: Sequence[Path]) -> Sheets:
        """The opened files, of which only the schemas are read."""
        optional("pyarrow", "pyarrow", f"{self.name} files")
        files = tuple(_open_file(path, self.magic) for path in paths)
        refuse_duplicates(files[0].names, files[0].path.name)
        _refuse_other_schema(files)
        return _TypedSheets(files, Declared(indices=_indices(files[0])))


class ParquetReader(_Columnar):
    """Parquet tables: one file, a folder or a glob of one schema; nulls and NaN are missing (parquet.apache.org)."""

    name = "parquet"
    extensions = (".parquet", ".pq")
    magic = MAGIC_PARQUET


class ArrowReader(_Columnar):
    """Arrow IPC files and streams, and Feather version 2: as Parquet (arrow.apache.org, columnar format)."""

    name = "arrow"
    extensions = (".arrow", ".feather", ".ipc")
    magic = MAGIC_ARROW


@dataclass(frozen=True, slots=True)
class _ColumnarFile:
    path: Path
    magic: bytes
    schema: Any
    names: tuple[str, ...]

    def batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Record batches of the named columns, in that order."""
        with _corruption_refused(self.path):
            if self.magic == MAGIC_PARQUET:
                parquet = optional("pyarrow.parquet", "pyarrow", "Parquet files").ParquetFile(
                    self.path, page_checksum_verification=True
                )
                # One row group after another: asked for all at once, they would all be read ahead into memory.
                for group in range(parquet.num_row_groups):
                    for batch in parquet.iter_batches(ROWS, row_groups=[group], columns=list(names)):
                        yield _validated(batch)
                return
            pa = optional("pyarrow", "pyarrow", "Arrow files")
            if self.magic == MAGIC_STREAM:
                with pa.memory_map(str(self.path)) as stream:
                    for batch in pa.ipc.open_stream(stream):
                        yield _validated(batch.select(list(names)))
                return
            with pa.memory_map(str(self.path)) as stream:
                reader = pa.ipc.open_file(stream)
                for index in range(reader.num_record_batches):
                    yield _validated(reader.get_batch(index).select(list(names)))


def _validated(batch: Any) -> Any:
    # Offsets, indices and text inside the buffers are as little to be believed as any other byte.
    batch.validate(full=True)
    return batch


def _open_file(path: Path, magic: bytes) -> _ColumnarFile:
    with path.open("rb") as stream:
        start = stream.read(len(magic))
    if magic == MAGIC_ARROW and start[:4] == MAGIC_STREAM:
        _refuse_unfinished(path)
        magic = start = MAGIC_STREAM
    if start != magic:
        raise IntegrityError(
            f"{path.name} begins with {start.hex(' ') or 'nothing'}, expected {magic.decode()}",
            hint="The file is truncated, or of another format. Feather version 1 must be converted first.",
        )
    with _corruption_refused(path):
        schema = _read_schema(path, magic)
        # Names are decoded when they are asked for, and may be as corrupt as all else.
        return _ColumnarFile(path, magic, schema, tuple(schema.names))


def _refuse_unfinished(path: Path) -> None:
    # A stream that ends between two batches reads as a shorter one.
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(END_OF_STREAM)))
        if stream.read() != END_OF_STREAM:
            raise IntegrityError(f"{path.name} is truncated: the Arrow stream has no end", hint="Fetch it again.")


def _read_schema(path: Path, magic: bytes) -> Any:
    if magic == MAGIC_STREAM:
        with optional("pyarrow", "pyarrow", "Arrow files").memory_map(str(path)) as stream:
            return optional("pyarrow.ipc", "pyarrow", "Arrow files").open_stream(stream).schema
    if magic == MAGIC_PARQUET:
        return optional("pyarrow.parquet", "pyarrow", "Parquet files").read_schema(path)
    with optional("pyarrow", "pyarrow", "Arrow files").memory_map(str(path)) as stream:
        return optional("pyarrow.ipc", "pyarrow", "Arrow files").open_file(stream).schema


@contextmanager
def _corruption_refused(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises for bytes that it does not understand into IntegrityError."""
    pa = optional("pyarrow", "pyarrow", "tables")
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path.name} is truncated or corrupt: {reason}", hint="Fetch it again.") from error


def _indices(file: _ColumnarFile) -> frozenset[int]:
    """Columns that pandas' metadata call an index, or whose names it makes up."""
    try:
        stored = json.loads((file.schema.metadata or {}).get(b"pandas", b"{}"))
    except (ValueError, RecursionError):
        stored = {}
    declared = stored.get("index_columns") if isinstance(stored, dict) else None
    named = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    return frozenset(i for i, name in enumerate(file.names) if name in named or numbers_rows(name))


def _refuse_other_schema(files: Sequence[_ColumnarFile]) -> None:
    for other in files[1:]:
        if not other.schema.equals(files[0].schema, check_metadata=False):
            raise other_schema(f"the schema of {other.path.name} differs from that of {files[0].path.name}")


@dataclass(frozen=True, slots=True)
class _TypedSheets:
    files: tuple[_ColumnarFile, ...]
    declared: Declared
    missing: tuple[str, ...] = ()
    advice: str = ""

    @property
    def where(self) -> str:
        """The table's name in messages."""
        return self.files[0].path.name + (
            f" and {counted(len(self.files) - 1, 'more file')}" if len(self.files) > 1 else ""
        )

    @property
    def names(self) -> Sequence[str]:
        """The columns' names."""
        return self.files[0].names

    def batches(self, plan: ColumnPlan, *, as_text: bool) -> Iterator[Batch]:
        """The planned columns; they are typed, so `as_text` changes nothing."""
        columns = sorted({*plan.features, *plan.texts})
        words = self._words(plan)
        for position, file in enumerate(self.files):
            for batch in file.batches([self.names[c] for c in columns]):
                arrays = dict(zip(columns, batch.columns, strict=True))
                found = {c: _as_word(a) if c in words else _without_nan(a) for c, a in arrays.items()}
                yield Batch(found, position)

    def explain(self, fault: CellError) -> FlctlError:
        """The sentence for a cell, with its row (from 0) and column."""
        name = self.names[fault.column]
        return DataError(
            f"{self.where}, row {fault.row}, column '{name}': a cell is {fault.reason}",
            hint=fault.advice(name),
        )

    def _words(self, plan: ColumnPlan) -> frozenset[int]:
        """The columns to read as text. Raises DataError for types that are neither numbers nor text."""
        words = frozenset((*plan.categorical, *plan.by))
        if plan.target is not None and not self._is_number(plan.target):
            words |= {plan.target}
        texts = [column for column in sorted({*plan.features, *words}) if not self._is_readable(column, words)]
        if texts:
            kind, name = self.files[0].schema.field(texts[0]).type, self.names[texts[0]]
            listed = shlex.quote(",".join(self.names[column] for column in texts))
            raise DataError(
                f"{self.where}: column '{name}' has type {kind}, and a feature needs numbers",
                hint=f"--categorical {listed} if it is a category, else --drop {listed}."
                if len(texts) == 1
                else f"There are {len(texts)} such columns: --categorical {listed}, or --drop those that are not "
                "categories.",
            )
        return words

    def _is_readable(self, column: int, words: frozenset[int]) -> bool:
        kind = self.files[0].schema.field(column).type
        number = self._is_number(column) or str(kind) == "bool" or _is_time(kind)
        return not _is_nested(kind) and (column in words or number)

    def _is_number(self, column: int) -> bool:
        types = optional("pyarrow", "pyarrow", "tables").types
        kind = self.files[0].schema.field(column).type
        known = (types.is_integer, types.is_floating, types.is_decimal)
        return any(is_kind(kind) for is_kind in known)


def _is_nested(kind: Any) -> bool:
    types = optional("pyarrow", "pyarrow", "tables").types
    return bool(types.is_nested(kind))


def _is_time(kind: Any) -> bool:
    types = optional("pyarrow", "pyarrow", "tables").types
    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_duration(kind))


def _seconds(array: Any) -> Any:
    """Times as seconds since 1970, and durations as seconds."""
    pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
    if pa.types.is_date(array.type):
        array = pc.cast(array, pa.timestamp("s"))
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    whole = pc.cast(array.view(pa.int64()) if pa.types.is_duration(array.type) else array, pa.int64())
    return pc.divide(pc.cast(whole, pa.float64(), safe=False), float(per_second))


def _without_nan(array: Any) -> Any:
    """NaN as null: a typed table has no other way to say that a number is missing."""
    pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
    if _is_time(array.type):
        return _seconds(array)
    if not pa.types.is_floating(array.type):
        return array
    array = pc.cast(array, pa.float64())
    return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)


def _as_word(array: Any) -> Any:
    pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return pc.cast(array if _is_time(array.type) else _without_nan(array), pa.string())

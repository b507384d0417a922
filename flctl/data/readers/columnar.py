"""Parquet, and Arrow IPC or Feather: typed columns, read batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from flctl.data.dataset import Dataset, Examples
from flctl.data.dialect import numbers_rows
from flctl.data.extras import optional
from flctl.data.options import Pixels, Tokens
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.schema import ColumnPlan, Declared, refuse_duplicates
from flctl.data.sheets import Located, Sheets
from flctl.data.stored_pictures import new_pictures, picture_column, read_pictures
from flctl.data.table import TableReader
from flctl.data.table_files import other_schema
from flctl.data.typed import TypedColumn, TypedFile, TypedSheets, columns_of
from flctl.errors import DataError, IntegrityError

__all__ = ["ArrowReader", "ColumnarReader", "ParquetReader"]

ROWS = 65_536
MAGIC_PARQUET, MAGIC_ARROW, MAGIC_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
END_OF_STREAM = MAGIC_STREAM + b"\0\0\0\0"


class ColumnarReader(TableReader):
    """Base class of the readers of typed tables."""

    magic: ClassVar[bytes]

    class Config(TableReader.Config):
        """`na`: words and numbers that mean missing, besides null and NaN. `image_size`, `channels`: HEIGHTxWIDTH that
        pictures are resized to, and 1, 3 or auto."""

        na: Tokens = ()
        image_size: Pixels | None = None
        channels: Literal["auto", "1", "3"] = "auto"

    def open(self, paths: Sequence[Path]) -> Sheets:
        """The opened files, of which only the schemas are read."""
        optional("pyarrow", "pyarrow", f"{self.name} files")
        files = tuple(self.open_file(path) for path in paths)
        columns = columns_of(files[0])
        refuse_duplicates([column.name for column in columns], files[0].path.name)
        _refuse_other_schema(files)
        declared = Declared(indices=_indices(files[0].schema, columns), parts=_parts(columns))
        return TypedSheets(files, columns, declared, self.config.na)

    def open_file(self, path: Path) -> TypedFile:
        """One opened file."""
        return _open_file(path, self.magic)

    def read_planned(self, sheets: Located, plan: ColumnPlan, name: str) -> Dataset:
        """The data set of the planned columns: pictures if one of them holds pictures, else a table."""
        picture = picture_column(sheets, plan.features)
        if picture is not None:
            return read_pictures(sheets, plan, picture, name, self.config)
        return super().read_planned(sheets, plan, name)

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The pictures of a table, resized as the training pictures were."""
        sheets = self.open_new(source)
        wanted = [list(sheets.names).index(name) for name in self.config.features if name in sheets.names]
        picture = picture_column(sheets, wanted or range(len(sheets.sheets.names)))
        if picture is None:
            raise DataError(f"{sheets.where} has no column of pictures, and the model takes pictures")
        return Examples(new_pictures(sheets, picture, fitted, resize=self.config.image_size is not None))


class ParquetReader(ColumnarReader):
    """Parquet tables: one file, a folder or a glob of one schema; nulls and NaN are missing (parquet.apache.org)."""

    name = "parquet"
    extensions = (".parquet", ".pq")
    magic = MAGIC_PARQUET


class ArrowReader(ColumnarReader):
    """Arrow IPC files and streams, and Feather version 2: as Parquet (arrow.apache.org, columnar format)."""

    name = "arrow"
    extensions = (".arrow", ".feather", ".ipc")
    magic = MAGIC_ARROW


@dataclass(frozen=True, slots=True)
class _ColumnarFile:
    path: Path
    magic: bytes
    schema: Any

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
        _ = tuple(schema.names)  # decoded when they are asked for, and perhaps as corrupt as all else
        return _ColumnarFile(path, magic, schema)


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


def _indices(schema: Any, columns: Sequence[TypedColumn]) -> frozenset[int]:
    """Columns that pandas' metadata call an index, or whose names it makes up."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except (ValueError, RecursionError):
        stored = {}
    declared = stored.get("index_columns") if isinstance(stored, dict) else None
    named = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    return frozenset(i for i, column in enumerate(columns) if column.source in named or numbers_rows(column.name))


def _parts(columns: Sequence[TypedColumn]) -> dict[str, tuple[int, ...]]:
    """Names of the file's columns that are spread over several here."""
    parts: dict[str, tuple[int, ...]] = {}
    for index, column in enumerate(columns):
        if column.path:
            parts[column.source] = (*parts.get(column.source, ()), index)
    return parts


def _refuse_other_schema(files: Sequence[TypedFile]) -> None:
    for other in files[1:]:
        if not other.schema.equals(files[0].schema, check_metadata=False):
            raise other_schema(f"the schema of {other.path.name} differs from that of {files[0].path.name}")

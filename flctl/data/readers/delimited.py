"""CSV and its kin: read fast by pyarrow, and once more, slowly, to find the place of a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flctl.data.columns import CellError, is_number, trimmed
from flctl.data.dates import date_numbers, looks_like_date
from flctl.data.dialect import DELIMITERS, Dialect, Record, records, refuse_undecoded, sniff
from flctl.data.extras import optional
from flctl.data.numerals import Decimal, advice_for, plain_numbers
from flctl.data.options import Header, Tokens, as_option
from flctl.data.packed import PACKED, opened
from flctl.data.schema import ColumnPlan, Declared, named_columns, refuse_duplicates
from flctl.data.sheets import Batch, Sheets
from flctl.data.table import TableReader, UnparsedCellError
from flctl.data.table_files import other_schema
from flctl.errors import DataError, FlctlError, IntegrityError, counted

__all__ = ["CsvReader", "TextSheets", "refuse_other_schema"]

BLOCK = 1 << 20
_EXTENSIONS = tuple(f"{stem}{packed}" for stem in (".csv", ".tsv", ".tab", ".data") for packed in PACKED)


class CsvReader(TableReader):
    """Text tables: CSV, TSV and columns divided by blanks, plain or packed, of one schema (RFC 4180)."""

    name = "csv"
    extensions = _EXTENSIONS

    class Config(TableReader.Config):
        """`na`: words that mean missing, besides the empty cell. `header`: whether the first row is names
        (auto, yes, no). `delimiter`: one character, tab or blanks (default: found in the first line). `decimal`: `,` or
        `.`, for numbers that are written with thousands separators, currency or per cent signs."""

        na: Tokens = ()
        header: Header = "auto"
        delimiter: str | None = None
        decimal: Decimal | None = None

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if there is such a file or folder; a .txt or a file without ending counts if it is a table."""
        return super().reads(source) or (Path(source).is_file() and _is_table(Path(source)))

    def open(self, paths: Sequence[Path]) -> Sheets:
        """The opened files, of which only the first rows are read."""
        optional("pyarrow.csv", "pyarrow", "CSV files")
        options: CsvReader.Config = self.config
        mentioned = named_columns(options)
        files = [sniff(p, options.delimiter, options.header, mentioned) for p in paths]
        refuse_duplicates(files[0].names, files[0].where)
        refuse_other_schema(files)
        return TextSheets(tuple(files), Declared(indices=files[0].indices), options.na, options.decimal)


def _is_table(path: Path) -> bool:
    """True if a file without an ending of its own, or a packed one, is a table.

    Its first two lines have equally many delimiters, or equally many words between blanks, one of them a number.
    """
    bare = Path(path.stem) if path.suffix.lower() in PACKED[1:] else path
    if bare.suffix.lower() not in ("", ".txt", ".dat", ".test"):
        return False
    try:
        with opened(path) as stream:
            start = stream.read(4096)
    except FlctlError:
        return False
    lines = [line for line in start.decode("utf-8", "replace").splitlines() if line.strip() and line[0] not in "#%"][:2]
    if b"\0" in start.rstrip(b"\0") or len(lines) < 2:
        return False
    first, second = (line.split() for line in lines)
    blanks = 1 < len(first) == len(second) and any(map(is_number, second))
    return blanks or any(0 < lines[0].count(mark) == lines[1].rstrip(mark).count(mark) for mark in DELIMITERS)


def refuse_other_schema(files: Sequence[Dialect]) -> None:
    """Raises DataError for the first file whose columns differ from the first file's."""
    first = files[0]
    for other in files[1:]:
        if other.names != first.names:
            differing = sorted(set(first.names) ^ set(other.names)) or ["their order"]
            raise other_schema(f"{other.where} has other columns than {first.where}: {', '.join(differing[:5])}")


@dataclass(frozen=True, slots=True)
class TextSheets:
    """Text tables of one schema, opened: rows in the order of the files."""

    files: tuple[Dialect, ...]
    declared: Declared
    missing: tuple[str, ...]
    decimal: Decimal | None = None

    @property
    def where(self) -> str:
        """The table's name in messages."""
        return self.files[0].where + (
            f" and {counted(len(self.files) - 1, 'more file')}" if len(self.files) > 1 else ""
        )

    @property
    def names(self) -> Sequence[str]:
        """The columns' names."""
        return self.files[0].names

    @property
    def advice(self) -> str:
        """Hint for a column that is not found."""
        if self.files[0].header:
            return ""
        return (
            f"It has no names: columns are c0 to c{len(self.names) - 1}, or --header yes to use the first row as names."
        )

    def batches(self, plan: ColumnPlan, *, as_text: bool) -> Iterator[Batch]:
        """The planned columns, block by block."""
        as_text = as_text or self.decimal is not None
        numeric = frozenset(() if as_text else plan.numeric) - {*plan.texts, *self.declared.formats}
        written = {*plan.numeric, *(() if plan.target is None else (plan.target,))}
        columns = sorted({*plan.features, *plan.texts})
        for position, file in enumerate(self.files):
            for found in _read_file(file, columns, numeric, self.missing):
                for column in self.declared.formats.keys() & {*plan.features} - {*plan.texts}:
                    found[column] = self._seconds(found[column], column)
                if self.decimal:
                    found |= {c: plain_numbers(found[c], self.decimal) for c in written}
                yield Batch(found, position)

    def _seconds(self, array: Any, column: int) -> Any:
        """Dates of the declared format as seconds since 1970; cells that are none stay as they are, to be named."""
        words = trimmed(array, self.missing)
        values, wrong = date_numbers(words, "time", self.declared.formats[column])
        return words if wrong is not None else optional("pyarrow", "pyarrow", "tables").array(values, from_pandas=True)

    def explain(self, fault: CellError) -> FlctlError:
        """The sentence for a cell, with its file, line, column and text."""
        file, record = self._locate(fault.row)
        name, cell = self.names[fault.column], record.cells[fault.column].strip()
        written = None if self.decimal else advice_for(cell)
        date = f"--date {as_option([name])} if it is a date" if looks_like_date([cell]) else None
        return DataError(
            f"{file.where}, line {record.line}, column '{name}': '{cell}' is {fault.reason}",
            hint=", ".join(filter(None, [date, written, fault.advice(name, None if date else cell)])),
        )

    def _locate(self, row: int) -> tuple[Dialect, Record]:
        for file in self.files:
            for index, record in enumerate(records(file)):
                if index - file.header == row:
                    return file, record
            row -= index + 1 - file.header
        raise IntegrityError(f"{self.where} changed while it was read")


def _read_file(
    file: Dialect, columns: Sequence[int], numeric: frozenset[int], missing: tuple[str, ...]
) -> Iterator[dict[int, Any]]:
    pa = optional("pyarrow", "pyarrow", "CSV files")
    watched = None
    try:
        with opened(file.path) as stream:
            watched = _Watched(stream, file)
            for batch in _open_csv(pa.PythonFile(watched, "r"), file, columns, numeric, missing):
                yield dict(zip(columns, batch.columns, strict=True))
    except pa.ArrowInvalid as error:
        raise _explain_file(file, numeric, str(error)) from error
    except OSError as error:
        raise _storage_or_integrity(file, error) from error
    if watched.quotes % 2:
        # A quote that never closes would have swallowed the rows behind it without a word.
        _check_rows(file)


class _Watched:
    """Stream of a file's rows for pyarrow, which counts their quotes."""

    def __init__(self, stream: Any, file: Dialect) -> None:
        self.quotes = 0
        self.closed = False
        self._quote = file.quote.encode()
        pieces = _without_nuls_at_the_end(_after_lines(stream, file.skip))
        pieces = _uncommented(pieces, file.comment) if file.comment else pieces
        self._pieces = _rewritten(pieces, file.rewrite) if file.rewrite else _with_closed_up_quotes(pieces, file)
        self._ready = b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none only at the end."""
        # A byte more than pyarrow asked for would be written past its buffer, so what is left over waits.
        self._ready = self._ready or next(self._pieces, b"")
        given, self._ready = (self._ready, b"") if size < 0 else (self._ready[:size], self._ready[size:])
        self.quotes += given.count(self._quote)
        return given

    def close(self) -> None:
        """Does nothing: the caller closes the stream."""
        self.closed = True


def _after_lines(stream: Any, lines: int) -> Iterator[bytes]:
    """The bytes that follow the first lines, in pieces that are not empty."""
    while piece := stream.read(BLOCK):
        *before, rest = piece.split(b"\n", lines)
        lines -= len(before)
        if rest and not lines:
            yield rest


def _without_nuls_at_the_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces less the NUL bytes that some loggers and copies leave behind the last row."""
    held = 0
    for piece in pieces:
        bare = piece.rstrip(b"\0")
        if bare:
            yield b"\0" * held + bare
            held = 0
        held += len(piece) - len(bare)


def _uncommented(pieces: Iterator[bytes], comment: str) -> Iterator[bytes]:
    """The pieces less the lines that begin with `comment`, in pieces that are not empty."""
    line = re.compile(rb"(?m)^[ \t]*" + re.escape(comment.encode()) + rb".*\n?")
    tail = b""
    for piece in pieces:
        whole, tail = _whole_lines(tail + piece)
        if kept := line.sub(b"", whole):
            yield kept
    if kept := line.sub(b"", tail):
        yield kept


def _with_closed_up_quotes(pieces: Iterator[bytes], file: Dialect) -> Iterator[bytes]:
    """The pieces without the blanks between a delimiter and a quote, which pyarrow would take for text."""
    mark, quote = re.escape(file.delimiter.encode()), file.quote.encode()
    blanks = re.compile(
        rb"(^|" + mark + rb")[ \t]+" + quote + rb"(?!" + quote + rb"[^\r\n" + mark + rb"])", re.MULTILINE
    )
    tail = b""
    for piece in pieces:
        whole, tail = _whole_lines(tail + piece)
        if whole:
            yield blanks.sub(rb"\1" + quote, whole) if b" " + quote in whole or b"\t" + quote in whole else whole
    if tail:
        yield blanks.sub(rb"\1" + quote, tail)


def _rewritten(pieces: Iterator[bytes], rewrite: Callable[[str], str]) -> Iterator[bytes]:
    """The pieces with each line rewritten, in pieces that are not empty."""
    tail = b""
    for piece in pieces:
        whole, tail = _whole_lines(tail + piece)
        if whole:
            yield _rewritten_lines(whole, rewrite)
    if tail:
        yield _rewritten_lines(tail, rewrite)


def _rewritten_lines(data: bytes, rewrite: Callable[[str], str]) -> bytes:
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    return "".join(map(rewrite, lines)).encode("utf-8", "surrogateescape")


def _whole_lines(data: bytes) -> tuple[bytes, bytes]:
    """The lines that are complete, and the beginning of the next."""
    end = data.rfind(b"\n") + 1 or data.rfind(b"\r") + 1
    return data[:end], data[end:]


def _open_csv(
    stream: Any, file: Dialect, columns: Sequence[int], numeric: frozenset[int], missing: tuple[str, ...]
) -> Any:
    pa, csv = optional("pyarrow", "pyarrow", "CSV files"), optional("pyarrow.csv", "pyarrow", "CSV files")
    types = {str(c): pa.float64() if c in numeric else pa.string() for c in columns}
    return csv.open_csv(
        stream,
        read_options=csv.ReadOptions(
            column_names=[str(i) for i in range(len(file.names))],
            skip_rows_after_names=int(file.header),
            block_size=max(BLOCK, 16 * file.width),
        ),
        parse_options=csv.ParseOptions(
            delimiter=file.delimiter,
            quote_char=file.quote,
            newlines_in_values=True,
        ),
        convert_options=csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=["", *missing],
            strings_can_be_null=True,
        ),
    )


def _explain_file(file: Dialect, numeric: frozenset[int], reason: str) -> Exception:
    """The error for a file that pyarrow could not read: the place of the fault, or a request to read it as text."""
    if numeric and "conversion error to double" in reason:
        return UnparsedCellError(reason)
    try:
        _check_rows(file)
    except FlctlError as fault:
        return fault
    return DataError(f"{file.where} cannot be read: {reason}", hint="If it is another format, name it with --reader.")


def _check_rows(file: Dialect) -> None:
    """Raises DataError for the first row with too few or too many cells, or text that is not UTF-8."""
    for record in records(file):
        refuse_undecoded(record, file.names, file.where)
        if len(record.cells) != len(file.names):
            expected = "the header has" if file.header else "the first row has"
            raise DataError(
                f"{file.where}, line {record.line}: {counted(len(record.cells), 'cell')}, but {expected} "
                f"{len(file.names)}",
                hint="Correct the row; quote a cell that contains the delimiter.",
            )


def _storage_or_integrity(file: Dialect, error: OSError) -> Exception:
    if error.errno is not None:
        return error
    return IntegrityError(f"{file.where} is truncated or corrupt: {error}", hint="Fetch the file again.")

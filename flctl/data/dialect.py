"""Dialect of a text table: delimiter, quotes, header and column names, found in its first lines."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from flctl.data.columns import is_number
from flctl.data.dates import looks_like_date
from flctl.data.packed import PACKED, opened
from flctl.errors import ConfigError, DataError, command_line

__all__ = ["DELIMITERS", "Dialect", "Record", "numbers_rows", "open_text", "records", "sniff"]

DELIMITERS = (",", ";", "\t", "|")
_NAMED_DELIMITERS = {
    "tab": "\t",
    "\\t": "\t",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "space": "blanks",
    "blanks": "blanks",
}
_UNDECODED = re.compile("[\udc80-\udcff]")
BLANKS = "blanks"
_DECLARED = re.compile(r"sep=(.)", re.IGNORECASE)
_BETWEEN_BLANKS = re.compile(r'"([^"]*)"|(\S+)')
_INDEX_NAME = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_QUOTED = re.compile('"[^"]*"')
_COMMENTS = ("#", "%", "//")
LONGEST_LINE = 1 << 26


@dataclass(frozen=True, slots=True)
class Dialect:
    """Dialect of one file. `skip` lines come before the first record, which is the header if `header` is set.
    `indices` are columns without a name, and those that pandas calls `Unnamed: 0` or `__index_level_0__`. `rewrite`
    makes a line of CSV out of a line of the file."""

    path: Path
    names: tuple[str, ...]
    delimiter: str
    header: bool
    skip: int = 0
    quote: str = '"'
    comment: str | None = None
    width: int = 0
    indices: frozenset[int] = frozenset()
    rewrite: Callable[[str], str] | None = None

    @property
    def where(self) -> str:
        """The file's name in messages."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it is written, with the number of the line it begins on."""

    line: int
    cells: list[str]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as text, unpacked; bytes that are not UTF-8 come as lone surrogates."""
    with opened(path) as stream:
        yield io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def records(dialect: Dialect) -> Iterator[Record]:
    """All rows, the header too, read slowly and strictly. Raises DataError for quotes that do not close."""
    with open_text(dialect.path) as stream:
        yield from _parse(stream, dialect)


def _parse(stream: TextIO, dialect: Dialect) -> Iterator[Record]:
    for _ in range(dialect.skip):
        stream.readline(LONGEST_LINE)
    lines = _without_comments(stream, dialect.comment)
    if dialect.rewrite:
        lines = map(dialect.rewrite, lines)
    reader = csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote, skipinitialspace=True, strict=True)
    line = dialect.skip
    try:
        for cells in reader:
            begins, line = line + 1, dialect.skip + reader.line_num
            if cells:
                yield Record(begins, cells)
    except csv.Error as error:
        raise _quote_fault(dialect.where, line + 1, str(error)) from error


def _without_comments(stream: TextIO, comment: str | None) -> Iterator[str]:
    for line in stream:
        # A blank line in place of a comment keeps the line numbers right.
        yield "\n" if comment and line.lstrip().startswith(comment) else line


def _quote_fault(where: str, line: int, reason: str) -> DataError:
    if "unexpected end" in reason or "field larger" in reason:
        return DataError(
            f"{where}, line {line}: a quote opens here and does not close", hint="Close the quote, or remove it."
        )
    return DataError(f"{where}, line {line}: {reason}", hint="Quote a cell as a whole, and double quotes inside it.")


def refuse_undecoded(record: Record, names: tuple[str, ...], where: str) -> None:
    """Raises DataError naming line, column and byte of text that is not UTF-8."""
    for index, cell in enumerate(record.cells):
        if found := _UNDECODED.search(cell):
            column = f"column '{names[index]}'" if index < len(names) else f"column {index}"
            raise DataError(
                f"{where}, line {record.line}, {column}: byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8 text",
                hint=f"Convert it first: {command_line('iconv', '-f', 'latin1', '-t', 'utf-8', where)}",
            )


def sniff(path: Path, delimiter: str | None, header: Literal["auto", "yes", "no"], mentioned: set[str]) -> Dialect:
    """The dialect of a file; `mentioned` are the column names that options use.

    Raises DataError for an empty file, bytes that are not UTF-8, and a first row that may be names or data.
    """
    before = _leading_lines(path)
    found = _delimiter_of(path, delimiter or before.delimiter, before.count)
    rewrite = commas_for_blanks if found == BLANKS else None
    found = "," if rewrite else found
    bare = Dialect(path, (), found, header=False, skip=before.count, rewrite=rewrite)
    first = list(itertools.islice(records(bare), 2))
    if not first:
        raise DataError(f"{path.name} is empty")
    for record in first:
        refuse_undecoded(record, (), path.name)
    commented = _commented_header(before.comment, bare, len(first[0].cells), mentioned) if header != "no" else None
    cells = commented or [cell.strip() for cell in first[0].cells]
    named = bool(commented) or header == "yes"
    named = named or (header == "auto" and _is_header(cells, first[1:], mentioned, path.name))
    widest = max(len(record.cells) for record in first)
    if named and not commented and widest == len(cells) + 1:
        if first[1].cells[-1].strip():
            cells = ["", *cells]  # R writes the rows' names without a name for their column
        elif rewrite is None:
            rewrite = _WithoutLastDelimiter(found, len(cells))
    names = tuple(cell or f"c{i}" for i, cell in enumerate(cells)) if named else _numbered(len(cells))
    width = sum(len(cell) + 1 for cell in cells)
    indices = frozenset(i for i, cell in enumerate(cells) if named and numbers_rows(cell))
    skip = first[0].line - 1
    return Dialect(path, names, found, named and not commented, skip, width=width, indices=indices, rewrite=rewrite)


def numbers_rows(name: str) -> bool:
    """True if a header cell is that of an index: blank, or a name that pandas makes up."""
    return not name or _INDEX_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class _LeadingLines:
    """Number of lines before the table, the delimiter that they declare, and the last comment among them."""

    count: int
    delimiter: str | None
    comment: str


def _leading_lines(path: Path) -> _LeadingLines:
    """Finds comments (`#`, `%`, `//`) and Excel's `sep=;` before the table."""
    count, delimiter, comment = 0, None, ""
    with open_text(path) as stream:
        while line := stream.readline(LONGEST_LINE):
            if declared := _DECLARED.fullmatch(line.strip().strip('"')):
                delimiter = declared[1]
            elif line.startswith(_COMMENTS):
                comment = line.lstrip("#%/").strip()
            else:
                break
            count += 1
    return _LeadingLines(count, delimiter, comment)


def _commented_header(comment: str, bare: Dialect, cells: int, mentioned: set[str]) -> list[str] | None:
    """The columns' names in the comment before the first row, as NumPy writes them; None if it has none.

    It has as many cells as the first row, and an option mentions one of them.
    """
    line = bare.rewrite(comment) if bare.rewrite else comment
    names = [cell.strip() for cell in next(csv.reader([line], delimiter=bare.delimiter, skipinitialspace=True), [])]
    return names if len(names) == cells and mentioned.intersection(names) else None


@dataclass(frozen=True, slots=True)
class _WithoutLastDelimiter:
    """Rewrites lines that end with one delimiter more than the header has."""

    delimiter: str
    columns: int

    def __call__(self, line: str) -> str:
        text = line.rstrip("\r\n")
        if not text.endswith(self.delimiter) or _QUOTED.sub("", text).count(self.delimiter) < self.columns:
            return line
        return text[:-1] + "\n"


def commas_for_blanks(line: str) -> str:
    """A line of CSV for one whose cells are divided by runs of blanks."""
    cells = [match[1] if match[1] is not None else match[2] for match in _BETWEEN_BLANKS.finditer(line)]
    return ",".join(f'"{cell}"' if "," in cell or ('"' not in cell and " " in cell) else cell for cell in cells) + "\n"


def _delimiter_of(path: Path, asked: str | None, before: int) -> str:
    if asked is not None:
        delimiter = _NAMED_DELIMITERS.get(asked, asked)
        if delimiter == BLANKS:
            return delimiter
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"--delimiter {asked!r} is not one character", hint="For example ';' or tab.")
        return delimiter
    name = path.name.lower()
    if any(name.endswith((f".tsv{packed}", f".tab{packed}")) for packed in PACKED):
        return "\t"
    first, second = _first_lines(path, before)
    unquoted = _QUOTED.sub("q", first)
    most = max(DELIMITERS, key=unquoted.count)
    words = unquoted.split()
    # A tab may stand before the last, quoted cell of a line of blanks (auto-mpg).
    numbers = sum(map(is_number, words))
    following = _QUOTED.sub("q", second).split()
    if not unquoted.count(most) and 1 < len(words) == len(following) and any(map(is_number, following)):
        return BLANKS
    return BLANKS if numbers > 1 and unquoted.count(most) + 1 < len(words) and most in ",\t" else most


def _first_lines(path: Path, before: int) -> tuple[str, str]:
    """The first two lines after `before` others that are not blank; "" for one that is not there."""
    with open_text(path) as stream:
        lines = iter(lambda: stream.readline(LONGEST_LINE), "")
        found = list(itertools.islice((line for line in itertools.islice(lines, before, None) if line.strip()), 2))
    first, second = [*found, "", ""][:2]
    if first.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise DataError(
            f"{path.name} is UTF-16 text",
            hint=f"Convert it first: {command_line('iconv', '-f', 'utf-16', '-t', 'utf-8', path)}",
        )
    return first, second


def _is_header(cells: list[str], second: list[Record], mentioned: set[str], where: str) -> bool:
    if mentioned.intersection(cells):
        return True
    if any(_looks_like_data(cell) for cell in cells):
        return False
    if second and not any(_looks_like_data(cell.strip()) for cell in second[0].cells):
        raise DataError(
            f"{where}: neither of the first two rows has a number, so the first may be names or data",
            hint="Use --header yes or --no-header.",
        )
    return True


def _looks_like_data(cell: str) -> bool:
    return is_number(cell) or is_number(cell.replace(",", ".")) or looks_like_date([cell])


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"c{index}" for index in range(count))

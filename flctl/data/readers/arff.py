"""ARFF: the text tables of Weka, whose header names the columns and their types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flctl.data.dates import java_format
from flctl.data.dialect import LONGEST_LINE, Dialect, open_text
from flctl.data.extras import optional
from flctl.data.options import Tokens, as_option
from flctl.data.packed import PACKED
from flctl.data.readers.delimited import TextSheets, refuse_other_schema
from flctl.data.schema import Declared, refuse_duplicates
from flctl.data.sheets import Sheets
from flctl.data.table import TableReader
from flctl.errors import DataError, counted

__all__ = ["ArffReader"]

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ATTRIBUTE = re.compile(rf"@attribute\s+({_QUOTED}|[^\s{{]+)\s*(.*)", re.IGNORECASE)
_CELL = re.compile(rf"\s*(?:({_QUOTED})|([^,]*?))\s*(,|$)")
_LEVEL = re.compile(rf"\s*(?:({_QUOTED})|([^,}}]*?))\s*(,|}}|$)")
_SPARSE = re.compile(rf"\s*(\d+)\s+(?:({_QUOTED})|([^,}}]*?))\s*(,|}})")
_DATE = re.compile(rf"date(?:\s+({_QUOTED}|\S+))?", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}
_SPECIAL = re.compile(r'[",\n\r]|^\s|\s$')
MAX_SHOWN = 60


class ArffReader(TableReader):
    """ARFF tables: nominal attributes are categories, `?` is missing (Weka; dense and sparse rows)."""

    name = "arff"
    extensions = tuple(f".arff{packed}" for packed in PACKED)

    class Config(TableReader.Config):
        """`na`: words that mean missing, besides the empty cell and `?`."""

        na: Tokens = ()

    def open(self, paths: Sequence[Path]) -> Sheets:
        """The opened files, of which only the headers are read."""
        optional("pyarrow.csv", "pyarrow", "ARFF files")
        headers = [_read_header(path) for path in paths]
        files = tuple(header.dialect for header in headers)
        refuse_duplicates(files[0].names, files[0].where)
        refuse_other_schema(files)
        levels = {i: column.levels for i, column in enumerate(headers[0].columns) if column.levels}
        formats = {i: column.format for i, column in enumerate(headers[0].columns) if column.format}
        return TextSheets(files, Declared(frozenset(levels), levels=levels, formats=formats), ("?", *self.config.na))


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str
    levels: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True, slots=True)
class _ArffHeader:
    dialect: Dialect
    columns: tuple[_Attribute, ...]


@dataclass(frozen=True, slots=True)
class _Rewriting:
    """Rewrites ARFF rows as CSV: quotes of either kind with backslash escapes, and sparse rows `{1 a, 3 2.5}`.

    `zeros` are the cells of an empty sparse row: 0, or the first declared value.
    """

    zeros: tuple[str, ...]

    def __call__(self, line: str) -> str:
        if line.lstrip().startswith("{"):
            return _csv_row(self._dense(line))
        if "'" not in line and '"' not in line and "\\" not in line:
            return line
        cells, end = [], 0
        text = line.rstrip("\r\n")
        while match := _CELL.match(text, end):
            cells.append(_plain(match[1], match[2]))
            end = match.end()
            if match[3] != ",":
                break
        # A quote that does not close, or text behind one: left for the parser of CSV to name.
        return _csv_row(cells) if end == len(text) else line

    def _dense(self, line: str) -> list[str]:
        cells = list(self.zeros)
        text = line.strip()
        end = 1
        while match := _SPARSE.match(text, end):
            if int(match[1]) >= len(cells):
                break
            cells[int(match[1])] = _plain(match[2], match[3])
            end = match.end()
        if text[end:].strip() not in ("", "}"):
            raise DataError(
                f"'{text[:MAX_SHOWN]}' is not a sparse row {{INDEX VALUE, ...}} of {counted(len(cells), 'column')}"
            )
        return cells


def _plain(quoted: str | None, bare: str | None) -> str:
    if quoted is None:
        return bare or ""
    return _ESCAPE.sub(lambda match: _CONTROL.get(match[1], match[1]), quoted[1:-1])


def _csv_row(cells: Sequence[str]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' if _SPECIAL.search(cell) else cell for cell in cells) + "\n"


def _read_header(path: Path) -> _ArffHeader:
    columns: list[_Attribute] = []
    with open_text(path) as stream:
        skip = 0
        while line := stream.readline(LONGEST_LINE):
            skip += 1
            word = line.strip()
            if word.lower().startswith("@data"):
                return _ArffHeader(_dialect(path, tuple(columns), skip), tuple(columns))
            if word.lower().startswith("@attribute"):
                columns.append(_attribute(word, path.name, skip))
    raise DataError(
        f"{path.name} has no @data line: {len(columns)} attributes and no rows",
        hint="The file may be truncated: fetch it again.",
    )


def _attribute(line: str, where: str, line_number: int) -> _Attribute:
    match = _ATTRIBUTE.match(line)
    if match is None:
        raise DataError(f"{where}, line {line_number}: '{line[:MAX_SHOWN]}' is not an attribute declaration")
    quoted = match[1] if match[1][0] in "'\"" and len(match[1]) > 1 else None
    # The type may be absent: some writers leave it out, and a column's use decides it.
    kind = match[2].lstrip()
    name = _plain(quoted, match[1]).strip()
    if date := _DATE.fullmatch(kind.rstrip()):
        return _Attribute(name, format=_date_format(date[1], name, where, line_number))
    return _Attribute(name, _levels(kind[1:]) if kind.startswith("{") else ())


def _date_format(pattern: str | None, name: str, where: str, line_number: int) -> str:
    bare = "" if pattern is None else _plain(pattern if pattern[0] in "'\"" else None, pattern)
    form = java_format(bare)
    if form is None:
        raise DataError(
            f"{where}, line {line_number}: the date format '{bare[:MAX_SHOWN]}' of '{name}' is not understood",
            hint=f"Read it as text: replace `date` by `string`, and --date {as_option([name])} --date-format FORMAT.",
        )
    return form


def _levels(text: str) -> tuple[str, ...]:
    levels, end = [], 0
    while match := _LEVEL.match(text, end):
        levels.append(_plain(match[1], match[2]).strip())
        end = match.end()
        if match[3] != ",":
            break
    return tuple(dict.fromkeys(level for level in levels if level not in ("", "?")))


def _dialect(path: Path, columns: tuple[_Attribute, ...], skip: int) -> Dialect:
    if not columns:
        raise DataError(f"{path.name} declares no @attribute before @data")
    names = tuple(column.name for column in columns)
    rewrite = _Rewriting(tuple(column.levels[0] if column.levels else "0" for column in columns))
    width = max(64, 32 * len(columns))
    return Dialect(path, names, ",", header=False, skip=skip, comment="%", width=width, rewrite=rewrite)

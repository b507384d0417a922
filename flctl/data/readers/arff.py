"""ARFF: the text tables of Weka, whose header names the columns and their types."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flctl.data.dialect import LONGEST_LINE, Dialect, open_text
from flctl.data.extras import optional
from flctl.data.options import Tokens
from flctl.data.readers.delimited import TextSheets, refuse_other_schema
from flctl.data.schema import Declared, refuse_duplicates
from flctl.data.table import Sheets, TableReader
from flctl.errors import DataError

__all__ = ["ArffReader"]

_ATTRIBUTE = re.compile(r"""@attribute\s+(?:"([^"]*)"|'([^']*)'|([^\s{]+))\s*(.*)""", re.IGNORECASE)
LOOKED_AT = 100
"""How many lines of rows are looked at to see how they are quoted."""
_SINGLE_QUOTED = re.compile(r"(^|,)\s*'")


class ArffReader(TableReader):
    """ARFF tables, plain or .gz: nominal attributes are categories, `?` is missing (Weka; dense rows)."""

    name = "arff"
    extensions = (".arff", ".arff.gz")

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
        return TextSheets(files, Declared(headers[0].nominal), ("?", *self.config.na))


@dataclass(frozen=True, slots=True)
class _ArffHeader:
    dialect: Dialect
    nominal: frozenset[int]


def _read_header(path: Path) -> _ArffHeader:
    names: list[str] = []
    nominal: list[int] = []
    with open_text(path) as stream:
        skip = 0
        while line := stream.readline(LONGEST_LINE):
            skip += 1
            word = line.strip()
            if word.lower().startswith("@data"):
                rows = [row for row in itertools.islice(stream, LOOKED_AT) if not row.lstrip().startswith("%")]
                return _ArffHeader(_dialect(path, names, skip, rows), frozenset(nominal))
            if word.lower().startswith("@attribute"):
                name, kind = _attribute(word, path.name, skip)
                if kind.lstrip().startswith("{"):
                    nominal.append(len(names))
                names.append(name)
    raise DataError(f"{path.name} has no @data line: {len(names)} attributes and no rows", hint="Is it truncated?")


def _attribute(line: str, where: str, number: int) -> tuple[str, str]:
    match = _ATTRIBUTE.match(line)
    if match is None:
        raise DataError(f"{where}, line {number}: '{line[:60]}' names no attribute")
    # The type may be absent: some writers leave it out, and a column's use says what it must be.
    return next(group for group in match.groups()[:3] if group is not None).strip(), match[4]


def _dialect(path: Path, names: list[str], skip: int, rows: list[str]) -> Dialect:
    if any(row.lstrip().startswith("{") for row in rows):
        raise DataError(f"{path.name} has sparse rows", hint="Convert it to dense ARFF or to CSV first.")
    if not names:
        raise DataError(f"{path.name} declares no @attribute before @data")
    quote = "'" if any(map(_SINGLE_QUOTED.search, rows)) else '"'
    width = max(map(len, rows), default=0)
    return Dialect(path, tuple(names), ",", header=False, skip=skip, quote=quote, comment="%", width=width)

"""Columns that options make of others: parts of dates, a target from one-hot columns; and columns that number rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flctl.data.columns import trimmed
from flctl.data.dataset import Dataset
from flctl.data.dates import DEFAULT_PARTS, PARTS, format_of_dates
from flctl.data.extras import optional
from flctl.data.options import TabularOptions, as_option
from flctl.data.schema import ColumnPlan, find_column
from flctl.data.sheets import Computed, DatePart, Located, OneHotTarget, Sheets
from flctl.errors import ConfigError, suggest

__all__ = ["counting_note", "made_columns", "one_hot_target", "row_numbers"]

INDEX_NAMES = frozenset(
    {"#", "id", "idx", "index", "key", "no", "nr", "num", "number", "obs", "observation", "record", "row", "rowid",
     "rownames", "rownum", "rownumber", "sample", "sampleid", "serial", "sno", "recordid", "instance", "level0"}
)  # fmt: skip
"""Names of columns that number rows, in lower case and without blanks, dots, dashes and underscores."""
LEAST_ROWS = 20
"""Fewer rows than this may count up by chance."""


def made_columns(sheets: Located, options: TabularOptions) -> tuple[Computed, ...]:
    """The columns that `--date` and a `--target` of several names make.

    Raises ConfigError for an unknown part of a date, DataError for a column that is not there or cells that are no
    dates.
    """
    dates = [part for word in options.date for part in _date(sheets, word, options.date_format)]
    target = one_hot_target(sheets, options.target)
    return (*dates, *([target] if target else []))


def one_hot_target(sheets: Sheets, target: str | None) -> OneHotTarget | None:
    """The target that several columns `a,b,c` hold one-hot; None for a name of one column."""
    words = [word.strip() for word in (target or "").split(",")]
    if len(words) < 2 or target in sheets.names or any(word not in sheets.names for word in words):
        return None
    return OneHotTarget(tuple(words), tuple(list(sheets.names).index(word) for word in words))


def _date(sheets: Located, word: str, form: str | None) -> Iterator[DatePart]:
    column, parts = _column_and_parts(sheets, word)
    source = find_column(sheets.names, column, "date", sheets.where)
    name = sheets.names[source]
    found = form or sheets.declared.formats.get(source) or format_of_dates(_distinct(sheets, source), name)
    return (DatePart(name, source, part, found) for part in parts)


def _column_and_parts(sheets: Located, word: str) -> tuple[str, Sequence[str]]:
    column, colon, listed = word.rpartition(":")
    if not colon or word in sheets.names:
        return word, DEFAULT_PARTS
    parts = listed.split("+")
    for part in parts:
        if part not in PARTS:
            raise ConfigError(
                f"--date {word}: '{part}' is not a part of a date",
                hint=suggest(part, PARTS) or f"Parts are {', '.join(PARTS)}.",
            )
    return column, parts


def _distinct(sheets: Located, column: int) -> list[str]:
    compute = optional("pyarrow.compute", "pyarrow", "tables")
    words: dict[str, None] = {}
    for batch in sheets.batches(ColumnPlan(tuple(sheets.names), None, (), (), (column,)), as_text=True):
        unique = compute.unique(trimmed(batch.columns[column], sheets.missing)).to_pylist()
        words |= dict.fromkeys(word for word in unique if word is not None)
    return list(words)


def row_numbers(dataset: Dataset) -> tuple[list[str], list[str]]:
    """(Numeric columns that count rows up from 0 or 1 and are called so, other columns that count rows up)."""
    if dataset.inputs is None or len(dataset) < LEAST_ROWS:
        return [], []
    named: list[str] = []
    others: list[str] = []
    start = 0
    for column in dataset.inputs.columns:
        values = dataset.x[:, start]
        start += len(column.features)
        if column.kind != "number" or values[0] + column.offset not in (0, 1) or values[1] - values[0] != 1:
            continue
        if bool((np.diff(values) == 1).all()):
            bare = "".join(letter for letter in column.name.lower() if letter not in " ._-")
            (named if bare in INDEX_NAMES else others).append(column.name)
    return named, others


def counting_note(names: Sequence[str]) -> str:
    """A note on features that count rows up."""
    listed = ", ".join(f"'{name}'" for name in names)
    return f"{listed} counts the rows up; if it is an index, leave it out: --drop {as_option(names)}"

"""New rows of a table, encoded as the training rows were: columns by name, categories by the levels that were seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.data.columns import CellError, as_numbers, is_missing, trimmed
from flctl.data.dates import date_numbers
from flctl.data.extras import optional
from flctl.data.preprocessing import ABSENT, InputColumn, Inputs
from flctl.data.schema import ColumnPlan
from flctl.data.sheets import Sheets
from flctl.data.table import Columns
from flctl.errors import DataError, IncompatibleError, closest, counted
from flctl.types import FloatArray

__all__ = ["CHARACTERS", "EncodedRows", "TableEncoder", "Tally", "Unseen"]

Unseen = Literal["zeros", "other", "refuse"]
CELLS = 1 << 20
"""Values of x at once: 4 MiB."""
EXAMPLES = 3
SHOWN = 12
NO_LEVEL = -1
CHARACTERS = "characters"
"""The name under which characters outside a vocabulary are counted."""


@dataclass(slots=True)
class Tally:
    """Counts, while rows stream by, what was not as in training. An accumulator.

    `unseen` counts rows with a level that training never had, by column, with up to three such levels in `examples`;
    `as_other` are the columns whose own category 'other' such rows took. `missing` counts rows with an empty cell, by
    column; `ignored` are the columns that the model does not use.
    """

    rows: int = 0
    unseen: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    as_other: frozenset[str] = frozenset()

    def add_unseen(self, column: str, level: str, rows: int) -> None:
        """Counts `rows` more rows with the level."""
        self.unseen[column] = self.unseen.get(column, 0) + rows
        known = self.examples.setdefault(column, [])
        if level not in known and len(known) < EXAMPLES:
            known.append(level)

    def add_missing(self, column: str, rows: int) -> None:
        """Counts `rows` more rows with an empty cell."""
        if rows:
            self.missing[column] = self.missing.get(column, 0) + rows

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was not as in training: columns, categories, empty cells."""
        notes = []
        if self.ignored:
            shown = ", ".join(self.ignored[:SHOWN]) + (", ..." if len(self.ignored) > SHOWN else "")
            notes.append(f"{counted(len(self.ignored), 'column')} the model does not use: {shown}")
        for name, count in self.unseen.items():
            fate = "encoded as 'other'" if name in self.as_other else "encoded with all features of the column 0"
            seen = ", ".join(map(repr, self.examples[name]))
            if name == CHARACTERS:
                notes.append(f"{counted(count, 'character')} not in the vocabulary, left out: {seen}")
            else:
                rows = counted(count, "row")
                notes.append(f"{name}: {rows} with a category that training never had ({seen}), {fate}")
        if self.missing:
            cells = ", ".join(f"{name} {count:,}" for name, count in self.missing.items())
            notes.append(f"empty cells, encoded as in training: {cells}")
        return tuple(notes)


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """A block of rows: x [n, features] before standardisation, the number of the first, and other columns as text
    (None: an empty cell)."""

    first: int
    x: npt.NDArray[np.float32]
    words: Mapping[str, list[str | None]]


class TableEncoder:
    """Encodes the rows of `sheets`, block by block, in bounded memory.

    `words` names columns to pass on as text. `unseen` decides about a level that training never had: `zeros` leaves
    all of the column's features 0, `other` takes the column's own level of that name if it has one, `refuse` raises.
    Raises IncompatibleError if a column is missing, DataError for `other` if no column has such a level.
    """

    def __init__(self, inputs: Inputs, sheets: Sheets, unseen: Unseen = "zeros", words: Sequence[str] = ()) -> None:
        self.inputs, self.sheets, self.unseen = inputs, sheets, unseen
        column_indices = _column_indices(inputs, sheets)
        self._words = {name: _place_of(name, sheets) for name in words}
        features = tuple(column_indices[column.name] for column in inputs.columns)
        categories = [column_indices[column.name] for column in inputs.columns if column.kind == "category"]
        dates = {column_indices[column.name] for column in inputs.columns if column.kind == "date"}
        by = tuple(dict.fromkeys((*self._words.values(), *sorted(dates))))
        self.plan = ColumnPlan(tuple(sheets.names), None, features, tuple(categories), by)
        self._missing = (*inputs.missing, *sheets.missing)
        self._levels = {c.name: _Codes(c, unseen) for c in inputs.columns if c.kind == "category"}
        known = {*inputs.source, *(column.name for column in inputs.columns), *words}
        others = frozenset(name for name, codes in self._levels.items() if codes.has_other)
        if unseen == "other" and not others:
            raise DataError(
                "--unseen other: no column of the model has a category 'other'",
                hint="Use --unseen zeros (all features of the column are 0) or --unseen refuse.",
            )
        self.tally = Tally(ignored=tuple(name for name in sheets.names if name not in known), as_other=others)

    def blocks(self) -> Iterator[EncodedRows]:
        """The rows in order. Raises DataError for a cell that is no number, with its place."""
        step = max(1, CELLS // max(1, len(self.inputs.features)))
        try:
            for batch in self.sheets.batches(self.plan, as_text=True):
                columns = batch.columns
                for start in range(0, len(next(iter(columns.values()))), step):
                    yield self._block({c: array.slice(start, step) for c, array in columns.items()})
        except CellError as fault:
            raise self.sheets.explain(fault) from fault

    def _block(self, batch: Columns) -> EncodedRows:
        first, rows = self.tally.rows, len(next(iter(batch.values())))
        x = np.zeros((rows, len(self.inputs.features)), np.float32)
        start = 0
        for column_index, column in zip(self.plan.features, self.inputs.columns, strict=True):
            if column.kind != "category":
                self._fill_numbers(
                    x[:, start : start + len(column.features)], batch[column_index], column_index, column
                )
            else:
                codes = self._codes(batch[column_index], column_index, column)
                row = np.flatnonzero(codes != NO_LEVEL)
                x[row, start + codes[row]] = 1
            start += len(column.features)
        self.tally.rows += rows
        return EncodedRows(
            first, x, {name: self._text(batch[column_index]) for name, column_index in self._words.items()}
        )

    def _fill_numbers(self, into: npt.NDArray[np.float32], array: Any, column_index: int, column: InputColumn) -> None:
        """Writes a number's features [n, 1 or 2]."""
        values = self._numbers(array, column_index, column)
        absent = np.isnan(values)
        into[:, 0] = values if column.fill is None else np.where(absent, np.float32(column.fill), values)
        if column.indicator:
            into[:, 1] = absent

    def _dates(self, array: Any, column_index: int, column: InputColumn) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        values, wrong = date_numbers(trimmed(array, self._missing), column.part, column.format)
        if wrong is not None:
            raise CellError(column_index, self.tally.rows + wrong, f"not a date in the format {column.format}")
        return values, np.isnan(values)

    def _numbers(self, array: Any, column_index: int, column: InputColumn) -> npt.NDArray[np.float32]:
        absent: npt.NDArray[np.bool_] | None
        if column.kind == "date":
            values, absent = self._dates(array, column_index, column)
        else:
            try:
                values, absent = as_numbers(array, self._missing)
            except CellError as fault:
                raise CellError(column_index, self.tally.rows + fault.row, fault.reason) from fault
        with np.errstate(over="ignore", invalid="ignore"):
            result = (values - column.offset).astype(np.float32)
        allowed = np.isfinite(result) if absent is None else np.isfinite(result) | absent
        if not allowed.all():
            raise CellError(column_index, self.tally.rows + int(np.argmin(allowed)), "not a finite 32-bit number")
        self.tally.add_missing(column.name, 0 if absent is None else int(absent.sum()))
        return result

    def _codes(self, array: Any, column_index: int, column: InputColumn) -> npt.NDArray[np.int64]:
        """The level of each row, or NO_LEVEL."""
        encoded = optional("pyarrow.compute", "pyarrow", "tables").dictionary_encode(array)
        words = [self._word(word) for word in (*encoded.dictionary.to_pylist(), None)]
        local = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
        for code, count in enumerate(np.bincount(local, minlength=len(words)).tolist()):
            if count:
                self._count(
                    column.name, words[code], count, lambda code=code: int(np.argmax(local == code)), column_index
                )
        codes = self._levels[column.name]
        levels: npt.NDArray[np.int64] = np.array([codes.code(word) for word in words], np.int64)[local]
        return levels

    def _count(self, column: str, word: str | None, rows: int, first: Any, column_index: int) -> None:
        if word is None:
            self.tally.add_missing(column, rows)
        elif not self._levels[column].knows(word):
            if self.unseen == "refuse":
                reason = f"a category that training never had; it had {_listed(self._levels[column].names)}"
                raise _UnseenError(column_index, self.tally.rows + first(), reason)
            self.tally.add_unseen(column, word, rows)

    def _word(self, value: Any) -> str | None:
        word = "" if value is None else str(value).strip()
        return None if word in ("", *self._missing) else word

    def _text(self, array: Any) -> list[str | None]:
        absent = is_missing(array, self._missing).tolist()
        return [None if gone else str(word).strip() for gone, word in zip(absent, array.to_pylist(), strict=True)]


class _UnseenError(CellError):
    """A category that training never had, with `--unseen refuse`."""

    def advice(self, name: str, cell: str | None = None) -> str:
        """Hint for correcting the cell or choosing another `--unseen`."""
        return "Correct it, or use --unseen zeros: all features of the column are 0."


class _Codes:
    """From the words of a category to its levels."""

    def __init__(self, column: InputColumn, unseen: Unseen) -> None:
        self.names = column.levels
        self._index = {level: code for code, level in enumerate(column.levels)}
        self._missing = self._index.pop(ABSENT, NO_LEVEL)
        other = next((level for level in column.levels if level.lower() == "other"), None)
        self.has_other = unseen == "other" and other is not None
        self._unseen = self._index[other] if other is not None and unseen == "other" else NO_LEVEL

    def knows(self, word: str) -> bool:
        """True if training rows had the level."""
        return word in self._index

    def code(self, word: str | None) -> int:
        """The place of the level; NO_LEVEL if no feature stands for it."""
        return self._missing if word is None else self._index.get(word, self._unseen)


def _column_indices(inputs: Inputs, sheets: Sheets) -> dict[str, int]:
    """Column name -> index in the sheets. Raises IncompatibleError naming the columns that are missing."""
    found = {name: index for index, name in enumerate(_names(inputs, sheets))}
    missing = [column.name for column in inputs.columns if column.name not in found]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise IncompatibleError(
            f"{sheets.where} lacks {len(missing)} of {counted(len(inputs.columns), 'column')} that the model needs: "
            f"{shown}",
            hint=_alike(missing, [name for name in found if name not in {c.name for c in inputs.columns}], sheets),
        )
    return found


def _names(inputs: Inputs, sheets: Sheets) -> Sequence[str]:
    """Names of the sheets' columns; of a table without a header those of the training table, by position."""
    numbered = tuple(f"c{index}" for index in range(len(inputs.source)))
    if inputs.source != numbered or not inputs.source or not all(map(_is_numbered, sheets.names)):
        return sheets.names
    without_target = [name for name in inputs.source if name != inputs.target]
    for names in (list(inputs.source), without_target):
        if len(names) == len(sheets.names):
            return names
    raise IncompatibleError(
        f"{sheets.where} has {counted(len(sheets.names), 'column')} without names, and the training table had "
        f"{len(numbered)}",
        hint=f"Use all of {counted(len(numbered), 'column')}, or the {len(without_target)} without the target, in the "
        "same order.",
    )


def _is_numbered(name: str) -> bool:
    return name.startswith("c") and name[1:].isdecimal()


def _place_of(name: str, sheets: Sheets) -> int:
    if name not in sheets.names:
        raise DataError(f"{sheets.where} has no column '{name}' (--keep)", hint=f"It has {_listed(sheets.names)}.")
    return list(sheets.names).index(name)


def _alike(missing: Sequence[str], unused: Sequence[str], sheets: Sheets) -> str:
    lowered = {name.strip().lower(): name for name in unused}
    pairs = [(name, lowered[close]) for name in missing if (close := closest(name.lower(), lowered))]
    if pairs:
        return "Rename " + ", ".join(f"'{found}' to '{name}'" for name, found in pairs[:SHOWN]) + "."
    return f"It has {_listed(sheets.names)}. Check that its first row has the column names."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")

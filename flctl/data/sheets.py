"""Opened tables: the protocol that every format gives, and the columns that are made of paths and other columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from flctl.data.columns import CellError, trimmed
from flctl.data.dates import date_numbers
from flctl.data.extras import optional
from flctl.data.preprocessing import InputColumn
from flctl.data.schema import ColumnPlan, Declared
from flctl.data.table_files import PATH_COLUMNS, TableFile, unique_names
from flctl.errors import DataError, FlctlError

__all__ = ["Batch", "Computed", "DatePart", "Located", "OneHotTarget", "Sheets"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one file, by its position: planned columns as pyarrow arrays of equal length."""

    columns: Mapping[int, Any]
    file: int = 0


class Sheets(Protocol):
    """An opened table: one file or several of one schema."""

    @property
    def where(self) -> str:
        """The table's name in messages."""

    @property
    def names(self) -> Sequence[str]:
        """The columns' names."""

    @property
    def declared(self) -> Declared:
        """Categories and indices that the file itself declares."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The words, besides the empty cell, that mean a missing one."""

    @property
    def advice(self) -> str:
        """Hint for a column that is not found."""

    def batches(self, plan: ColumnPlan, *, as_text: bool) -> Iterator[Batch]:
        """The planned columns, file by file; with `as_text` numbers come as they are written."""

    def explain(self, fault: CellError) -> FlctlError:
        """The sentence for a cell that cannot be used."""


class Computed(Protocol):
    """A column that is made of others."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the columns that it is made of, which are read as text."""

    @property
    def input_column(self) -> InputColumn | None:
        """The column as the fitted preprocessing describes it; None for a target."""

    def values(self, arrays: Sequence[Any], missing: Sequence[str], first: int) -> Any:
        """The column of a batch whose first row is number `first`. Raises CellError for a cell of another kind."""


@dataclass(frozen=True, slots=True)
class DatePart:
    """A part of the dates in the column `column`, which has the index `source`."""

    column: str
    source: int
    part: str
    format: str

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.input_column.features[0]

    @property
    def sources(self) -> tuple[int, ...]:
        """The column of dates."""
        return (self.source,)

    @property
    def input_column(self) -> InputColumn:
        """The column as the fitted preprocessing describes it."""
        return InputColumn(self.column, "date", part=self.part, format=self.format)

    def values(self, arrays: Sequence[Any], missing: Sequence[str], first: int) -> Any:
        """Float64, null if the cell is missing. Raises CellError for a cell that is no date of the format."""
        values, wrong = date_numbers(trimmed(arrays[0], missing), self.part, self.format)
        if wrong is not None:
            raise CellError(self.source, first + wrong, f"not a date in the format {self.format}")
        return optional("pyarrow", "pyarrow", "tables").array(values, from_pandas=True)


@dataclass(frozen=True, slots=True)
class OneHotTarget:
    """A class from columns of 0 and 1, one of which is 1 in each row: the name of that column."""

    names: tuple[str, ...]
    sources: tuple[int, ...]
    input_column: None = None

    @property
    def name(self) -> str:
        """The names of the columns, as `--target` has them."""
        return ",".join(self.names)

    def values(self, arrays: Sequence[Any], missing: Sequence[str], first: int) -> Any:
        """Text. Raises CellError for a row without exactly one 1."""
        pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
        ones = [pc.is_in(trimmed(array, missing), value_set=pa.array(["1", "1.0", "true", "True"])) for array in arrays]
        hot = np.stack([column.to_numpy(zero_copy_only=False) for column in ones], axis=1)
        wrong = hot.sum(axis=1) != 1
        if wrong.any():
            reason = "not part of a one-hot target: a row has one 1 and else 0"
            raise CellError(self.sources[0], first + int(np.argmax(wrong)), reason, of_target=True)
        return pa.array(np.array(self.names)[hot.argmax(axis=1)])


@dataclass(frozen=True, slots=True)
class Located:
    """Sheets with columns that stand in no file: those of `key=value` folders, `computed` ones, `file` and `folder`.

    `keys` and `paths` have a value for each file.
    """

    sheets: Sheets
    files: tuple[TableFile, ...]
    keys: tuple[tuple[str, tuple[str, ...]], ...]
    paths: tuple[tuple[str, tuple[str, ...]], ...]
    computed: tuple[Computed, ...] = ()

    @classmethod
    def of(cls, sheets: Sheets, files: tuple[TableFile, ...], by: Sequence[str]) -> Located:
        """The sheets with `key=value` columns, and with `file` and `folder` if `by` names them."""
        keys = dict.fromkeys(key for file in files for key in file.keys if key not in sheets.names)
        columns = {key: tuple(file.keys.get(key, "") for file in files) for key in keys}
        found = {"file": unique_names(files), "folder": [file.folder for file in files]}
        wanted = [name for name in PATH_COLUMNS if name in by and name not in (*sheets.names, *keys)]
        return cls(sheets, files, tuple(columns.items()), tuple((name, tuple(found[name])) for name in wanted))

    @property
    def names(self) -> Sequence[str]:
        """The columns' names."""
        made = (column.name for column in self.computed)
        return (*self.sheets.names, *(name for name, _ in self.keys), *made, *(name for name, _ in self.paths))

    @property
    def where(self) -> str:
        """The table's name in messages."""
        return self.sheets.where

    @property
    def declared(self) -> Declared:
        """Categories and indices that the file itself declares, and what computed columns are made of."""
        declared = self.sheets.declared
        parts: dict[str, tuple[int, ...]] = dict(declared.parts)
        for index, column in enumerate(self.computed, len(self.sheets.names) + len(self.keys)):
            if isinstance(column, DatePart):
                parts[column.column] = (*parts.get(column.column, ()), index)
        hidden = declared.hidden.union(*(column.sources for column in self.computed))
        return replace(declared, paths=len(self.paths), parts=parts, hidden=hidden)

    @property
    def missing(self) -> tuple[str, ...]:
        """The words, besides the empty cell, that mean a missing one."""
        return self.sheets.missing

    @property
    def advice(self) -> str:
        """Hint for a column that is not found."""
        return self.sheets.advice

    def input_column(self, index: int) -> InputColumn:
        """The numeric column with this index, as new rows get it."""
        made = index - len(self.sheets.names) - len(self.keys)
        found = self.computed[made].input_column if 0 <= made < len(self.computed) else None
        return found or InputColumn(self.names[index], "number")

    def batches(self, plan: ColumnPlan, *, as_text: bool) -> Iterator[Batch]:
        """The planned columns, training files first."""
        pa, count = optional("pyarrow", "pyarrow", "tables"), len(self.sheets.names)
        planned = {*plan.features, *plan.texts}
        numbered = dict(enumerate(self.computed, count + len(self.keys)))
        made = {index: column for index, column in numbered.items() if index in planned}
        of_paths = (*enumerate(self.keys, count), *enumerate(self.paths, count + len(self.keys) + len(numbered)))
        constants = {index: pair for index, pair in of_paths if index in planned}
        first = 0
        for batch in self.sheets.batches(_with_sources(plan.within(count), made), as_text=as_text):
            columns = dict(batch.columns)
            rows = len(next(iter(columns.values())))
            columns |= {i: pa.repeat(pa.scalar(values[batch.file]), rows) for i, (_, values) in constants.items()}
            for index, column in made.items():
                columns[index] = column.values([columns[i] for i in column.sources], self.missing, first)
            first += rows
            yield Batch(columns, batch.file)

    def explain(self, fault: CellError) -> FlctlError:
        """The sentence for a cell."""
        count = len(self.sheets.names)
        if fault.column < count:
            return self.sheets.explain(fault)
        name = self.names[fault.column]
        return DataError(f"{self.where}: column '{name}' of its path is {fault.reason}", hint=fault.advice(name))


def _with_sources(plan: ColumnPlan, made: Mapping[int, Computed]) -> ColumnPlan:
    """The plan with the columns that computed ones are made of, as text."""
    sources = {source for column in made.values() for source in column.sources}
    target = plan.target if plan.target not in made else None
    return replace(plan, target=target, by=tuple(sorted({*plan.by, *sources})))

"""Builder of data sets from batches of columns: tables of every format become x, y and groups here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.data.columns import (
    MISSING,
    NOT_A_NUMBER,
    CellError,
    Levels,
    Numbers,
    TargetColumn,
    is_missing,
    refuse_too_many,
)
from flctl.data.dataset import Dataset, DatasetReader, Split, divided
from flctl.data.extras import optional
from flctl.data.files import expand, require_memory, short_name
from flctl.data.made_columns import counting_note, made_columns, row_numbers
from flctl.data.options import TabularOptions, Task, as_option
from flctl.data.precision import offset_note
from flctl.data.preprocessing import ABSENT, InputColumn, Inputs
from flctl.data.schema import ColumnPlan, plan_columns
from flctl.data.sheets import Located, Sheets
from flctl.data.splits import SplitName
from flctl.data.table_files import table_files
from flctl.data.targets import Target
from flctl.data.text_columns import TextColumns
from flctl.errors import ConfigError, DataError, FlctlError, counted
from flctl.types import IntArray

__all__ = ["MAX_LEVELS", "Columns", "TableReader", "read_table"]

MAX_LEVELS = 4096
"""A category with more levels than this is an identifier; one-hot columns of it would not fit."""
Columns = Mapping[int, Any]
_FILLS: Mapping[str | None, Literal["mean", "median"] | None]
_FILLS = {None: None, "mean": "mean", "median": "median", "indicator": "mean"}
"""Option -> what takes the place of a missing number."""


class UnparsedCellError(Exception):
    """A numeric column did not parse on the fast path: read again as text, where blanks are trimmed and cells named."""


class TableReader(DatasetReader):
    """Base class of table readers: they open `Sheets`, and one builder makes the data set."""

    class Config(TabularOptions):
        """Options of every table reader."""

    def open(self, paths: Sequence[Path]) -> Sheets:
        """The opened files, of which only the schemas are read."""
        raise NotImplementedError

    def open_new(self, source: str) -> Located:
        """The opened table of new rows: all files of `source` as one, with the columns that their paths add."""
        files = table_files((source,), (), "none", self.extensions).train
        return Located.of(self.open([file.path for file in files]), files, ())

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if there is such a file, or one in the folder or glob."""
        return any(path.name.lower().endswith(cls.extensions) for path in expand(source, cls.extensions))

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, features], categories one-hot, missing numbers NaN; rows without a target are left out."""
        options = self.config
        parts = table_files((source, *options.more), options.test, options.splits, self.extensions)
        files = (*parts.train, *parts.test, *parts.validation)
        sheets = Located.of(self.open([file.path for file in files]), files, options.by)
        sheets = replace(sheets, computed=made_columns(sheets, options))
        plan = plan_columns(sheets.names, options, sheets.declared, sheets.where, sheets.advice)
        dataset = self.read_planned(sheets, plan, short_name(source))
        return replace(dataset, notes=(*parts.notes, *dataset.notes))

    def read_planned(self, sheets: Located, plan: ColumnPlan, name: str) -> Dataset:
        """The data set of the planned columns; a column that numbers the rows is left out unless options name it."""
        options = self.config
        dataset = read_table(sheets, plan, options.task, name)
        indices, counting = ([], []) if options.features else row_numbers(dataset)
        notes = [counting_note(counting)] if counting else []
        if indices and len(indices) < len(plan.features):
            found = frozenset(map(list(sheets.names).index, indices))
            declared = replace(sheets.declared, indices=sheets.declared.indices | found)
            plan = plan_columns(sheets.names, options, declared, sheets.where, sheets.advice)
            dataset = read_table(sheets, plan, options.task, name)
        return replace(dataset, notes=(*dataset.notes, *notes))


def read_table(sheets: Located, plan: ColumnPlan, task: Task, name: str) -> Dataset:
    """Reads the planned columns. Raises DataError for a cell that cannot be used, with its place."""
    try:
        dataset = _read_fast(sheets, plan, task, name)
        return _read(sheets, plan, task, name, as_text=True) if dataset is None else dataset
    except CellError as fault:
        raise _with_other_columns(sheets, plan, fault) from fault


def _with_other_columns(sheets: Located, plan: ColumnPlan, fault: CellError) -> FlctlError:
    """The sentence for a cell; if other columns hold text too, with all of them and the options to copy."""
    error = sheets.explain(fault)
    if fault.of_target or fault.reason != NOT_A_NUMBER:
        return error
    found = TextColumns(plan.numeric, sheets.missing)
    for batch in sheets.batches(plan, as_text=True):
        found.add(batch.columns)
    if len(found.found) < 2:
        return error
    listed = ", ".join(f"'{plan.names[c]}'" for c in found.found)
    hint = f"Columns with text: {listed}. Add for example: {found.options(plan.names)}"
    return DataError(error.message, hint=hint)


def _read_fast(sheets: Located, plan: ColumnPlan, task: Task, name: str) -> Dataset | None:
    # None rather than an exception in flight: its traceback would keep the half-read table in memory.
    try:
        return _read(sheets, plan, task, name, as_text=False)
    except UnparsedCellError:
        return None


def _read(sheets: Located, plan: ColumnPlan, task: Task, name: str, *, as_text: bool) -> Dataset:
    builder = _filled(_Builder(plan, sheets, {}), sheets, as_text=as_text)
    if offsets := builder.numbers.merging:
        builder = _filled(_Builder(plan, sheets, offsets), sheets, as_text=as_text)
    return builder.finish(task, name, sheets.where)


def _filled(builder: _Builder, sheets: Located, *, as_text: bool) -> _Builder:
    for batch in sheets.batches(builder.plan, as_text=as_text):
        builder.add(batch.columns, sheets.files[batch.file].part)
    return builder


class _Builder:
    def __init__(self, plan: ColumnPlan, sheets: Located, offsets: Mapping[int, float]) -> None:
        self.plan, self.sheets = plan, sheets
        if plan.target is None:
            raise ConfigError("no column is to be predicted", hint="Name it with --target.")
        missing, levels = sheets.missing, sheets.declared.levels
        self.target = TargetColumn(plan.target, missing, levels.get(plan.target, ()))
        self.numbers = Numbers(plan.numeric, missing, offsets)
        self.categories = {c: Levels(c, missing, MAX_LEVELS, levels.get(c, ())) for c in plan.categorical}
        self.groups = {c: Levels(c, missing) for c in plan.by}
        self.missing = missing
        self.seen = self.kept = 0
        self.sizes: dict[SplitName, int] = {"train": 0, "test": 0, "validation": 0}

    def add(self, batch: Columns, part: SplitName) -> None:
        """Takes a batch, less its rows without a target. Raises CellError with the row number in the source."""
        batch, rows = self._with_target(batch)
        try:
            self.numbers.add(batch, len(rows))
        except CellError as fault:
            raise CellError(fault.column, int(rows[fault.row]), fault.reason) from fault
        self.target.add(batch[self.target.column], rows)
        for column, levels in (*self.categories.items(), *self.groups.items()):
            try:
                levels.add(batch[column])
            except CellError as fault:
                raise CellError(fault.column, int(rows[fault.row]), fault.reason) from fault
            refuse_too_many(levels, self.plan.names[column])
        self.kept += len(rows)
        self.sizes[part] += len(rows)

    def _with_target(self, batch: Columns) -> tuple[Columns, IntArray]:
        absent = is_missing(batch[self.target.column], self.missing)
        rows = np.arange(self.seen, self.seen + len(absent))
        self.seen += len(rows)
        if not absent.any():
            return batch, rows
        keep = optional("pyarrow", "pyarrow", "tables").array(~absent)
        return {column: array.filter(keep) for column, array in batch.items()}, rows[~absent]

    def finish(self, task: Task, name: str, where: str) -> Dataset:
        """The data set."""
        if not self.sizes["train"]:
            raise DataError(f"{where} has no rows" + (" with a target" if self.seen else ""))
        target = self.target.finish(task, self.plan.names[self.target.column])
        self._refuse_all_missing(where)
        x, columns, numeric = self._features()
        inputs = Inputs(columns, self.plan.names[self.target.column], self.plan.names, self.missing)
        groups = {self.plan.names[c]: _as_groups(levels) for c, levels in self.groups.items()}
        train, test, validation = divided(Split(x, target.y, groups), self.sizes["train"], self.sizes["test"])
        return Dataset(
            name,
            target.task,
            train.x,
            train.y,
            target.classes,
            inputs.features,
            numeric,
            groups=train.groups,
            test=test,
            validation=validation,
            notes=self._notes(target),
            inputs=inputs,
            impute=_FILLS[self.plan.impute],
        )

    def _refuse_all_missing(self, where: str) -> None:
        for column_index, column in enumerate(self.numbers.columns):
            if self.numbers.absent[column_index] == self.kept:
                raise _all_missing(where, self.plan.names[column], self.kept)
        for column, levels in self.categories.items():
            if not levels.names:
                raise _all_missing(where, self.plan.names[column], self.kept)

    def _features(self) -> tuple[npt.NDArray[np.float32], tuple[InputColumn, ...], tuple[int, ...] | None]:
        columns = {c: self._input_column(c) for c in self.plan.numeric}
        if not self.categories and not any(column.indicator for column in columns.values()):
            return self.numbers.finish(), tuple(columns.values()), None
        blocks = {c: _OneHot.of(levels) for c, levels in self.categories.items()}
        return _assemble(self.plan, self.numbers, blocks, columns)

    def _input_column(self, column: int) -> InputColumn:
        absent = dict(zip(self.numbers.columns, self.numbers.absent, strict=True))[column] > 0
        indicator = self.plan.impute == "indicator" and bool(absent)
        return replace(self.sheets.input_column(column), offset=self.numbers.offsets[column], indicator=indicator)

    def _notes(self, target: Target) -> tuple[str, ...]:
        names, notes = self.plan.names, list(self.plan.notes)
        if self.seen > self.kept:
            notes.append(f"{counted(self.seen - self.kept, 'row')} without '{names[self.target.column]}' left out")
        counts = [(names[c], int(n)) for c, n in zip(self.numbers.columns, self.numbers.absent, strict=True) if n]
        if counts:
            notes.append("missing cells: " + ", ".join(f"{name} {count:,}" for name, count in counts))
        notes += _precision_notes(names, self.numbers)
        for spellings in self.target.spellings() if target.classes else ():
            if not set(spellings) <= set(target.classes):
                notes.append(f"labels that are one number are one class: {', '.join(map(repr, spellings))}")
        for column, levels in self.groups.items():
            if absent := int((levels.codes == MISSING).sum()):
                notes.append(f"{counted(absent, 'row')} without '{names[column]}' made the group '{ABSENT}'")
        return tuple(notes)


def _precision_notes(names: Sequence[str], numbers: Numbers) -> list[str]:
    moved = [(names[c], offset) for c, offset in numbers.offsets.items() if offset]
    lost = ", ".join(f"'{names[c]}'" for c in numbers.merging)
    notes = [offset_note(moved)] if moved else []
    return [*notes, *([f"float32 merges distinct values of {lost}, even with an offset"] if lost else [])]


@dataclass(frozen=True, slots=True)
class _OneHot:
    """One category: its codes [n] into the levels, missing last."""

    codes: IntArray
    levels: tuple[str, ...]

    @classmethod
    def of(cls, levels: Levels) -> _OneHot:
        ranks, ordered = _sorted_levels(levels)
        names = ordered if (levels.codes != MISSING).all() else [*ordered, ABSENT]
        return cls(ranks[levels.codes], tuple(names))


def _assemble(
    plan: ColumnPlan, numeric_columns: Numbers, blocks: Mapping[int, _OneHot], described: Mapping[int, InputColumn]
) -> tuple[npt.NDArray[np.float32], tuple[InputColumn, ...], tuple[int, ...]]:
    numbers = numeric_columns.finish()
    rows = len(numbers)
    width = sum(len(b.levels) for b in blocks.values()) + sum(len(c.features) for c in described.values())
    require_memory(4 * rows * width, f"{counted(rows, 'row')} of {width:,} one-hot columns")
    x = np.zeros((rows, width), np.float32)
    columns: list[InputColumn] = []
    numeric: list[int] = []
    start = 0
    for column in plan.features:
        if column in blocks:
            x[np.arange(rows), start + blocks[column].codes] = 1
            columns.append(InputColumn(plan.names[column], "category", blocks[column].levels))
        else:
            x[:, start] = numbers[:, len(numeric)]
            numeric.append(start)
            columns.append(described[column])
            if columns[-1].indicator:
                x[:, start + 1] = np.isnan(x[:, start])
        start += len(columns[-1].features)
    return x, tuple(columns), tuple(numeric)


def _sorted_levels(levels: Levels) -> tuple[IntArray, list[str]]:
    """The rank of each code in sorted order, with the missing code's rank last, and the sorted names."""
    names = levels.names
    order = sorted(range(len(names)), key=names.__getitem__)
    ranks = np.empty(len(names) + 1, np.int64)
    ranks[order] = np.arange(len(names))
    ranks[MISSING] = len(names)
    return ranks, [names[i] for i in order]


def _as_groups(levels: Levels) -> npt.NDArray[Any]:
    # Code -1 picks the last name, which is that of missing cells; it widens the strings only where it is used.
    names = [*levels.names, ABSENT] if (levels.codes == MISSING).any() else levels.names
    return np.array(names)[levels.codes]


def _all_missing(where: str, column: str, rows: int) -> DataError:
    return DataError(
        f"{where}: column '{column}' has no value in any of {counted(rows, 'row')}",
        hint=f"--drop {as_option([column])}",
    )

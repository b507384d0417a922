"""Rows of a file as a schema describes them: raw features and coded targets, or a refusal that counts and quotes
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.component import Catalogue
from flctl.data.encoding import EncodedRows, TableEncoder
from flctl.data.sources import find_reader
from flctl.data.table import TableReader
from flctl.errors import ConfigError, DataError, counted
from flctl.federation.schema.schema import OTHER, Schema, SchemaColumn, SchemaTarget

__all__ = ["SchemaRows", "read_rows"]

NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class SchemaRows:
    """Rows before standardisation: x float32 [n, features], NaN if a number is missing, and y [n] as `Dataset` has it.

    `notes` are sentences about levels that were mapped to 'other', and about columns that the schema leaves out.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)


def read_rows(
    source: str,
    schema: Schema,
    registry: Catalogue,
    reader: str | None = None,
    options: Mapping[str, str] | None = None,
) -> SchemaRows:
    """Reads all rows of a table.

    Raises IncompatibleError if a column is missing, DataError with all problems if cells do not fit the schema. The
    message counts rows; it names neither a row nor the value of a cell.
    """
    kind = find_reader(source, reader, registry)
    if not issubclass(kind, TableReader):
        raise ConfigError(f"a schema describes tables, and {source} is read by '{kind.name}'", hint="Use a CSV file.")
    sheets = kind.from_options(dict(options or {})).open_new(source)
    others = any(OTHER in column.levels for column in schema.columns)
    encoder = TableEncoder(schema.inputs, sheets, "other" if others else "zeros", (schema.target.name,))
    reading = _RowReading(schema)
    for block in encoder.blocks():
        reading.add(block)
    reading.count_levels(encoder.tally.unseen, encoder.tally.missing)
    if not reading.xs:
        raise DataError(f"{source} has no rows")
    reading.refuse(source)
    ignored = [f"columns that the schema leaves out: {len(encoder.tally.ignored)}"] if encoder.tally.ignored else []
    notes = (*reading.notes, *ignored)
    return SchemaRows(np.concatenate(reading.xs), np.concatenate(reading.ys), notes)


@dataclass
class _RowReading:
    """Collects blocks of rows and counts cells that do not fit."""

    schema: Schema
    xs: list[npt.NDArray[np.float32]] = field(default_factory=list)
    ys: list[npt.NDArray[Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, block: EncodedRows) -> None:
        self.xs.append(block.x)
        self.ys.append(self.targets(block.words[self.schema.target.name]))
        start = 0
        for column in self.schema.columns:
            self.count_range(column, block.x[:, start])
            start += len(column.input_column.features)

    def count_range(self, column: SchemaColumn | SchemaTarget, values: npt.NDArray[Any]) -> None:
        if column.range is not None:
            outside = (values < np.float32(column.range[0])) | (values > np.float32(column.range[1]))
            self.count(f"column '{column.name}' outside its range", int(outside.sum()))

    def targets(self, words: Sequence[str | None]) -> npt.NDArray[Any]:
        target = self.schema.target
        self.count(f"no value in the target '{target.name}'", sum(word is None for word in words))
        if self.schema.task == "regression":
            numbers = np.array([_number(word) for word in words], np.float64)
            unread = int(np.isnan(numbers).sum()) - sum(word is None for word in words)
            self.count(f"the target '{target.name}' is not a finite number", unread)
            self.count_range(target, numbers)
            return numbers.astype(np.float32)
        codes = {name: code for code, name in enumerate(target.classes)}
        found = np.array([_code(codes, word) for word in words], np.int64)
        unknown = int((found == NO_CLASS).sum()) - sum(word is None for word in words)
        self.count(f"the target '{target.name}' has a class that is not in the schema", unknown)
        return found

    def count_levels(self, unseen: Mapping[str, int], missing: Mapping[str, int]) -> None:
        for column in self.schema.columns:
            unknown, absent = unseen.get(column.name, 0), missing.get(column.name, 0)
            if unknown and OTHER in column.levels:
                self.notes.append(f"column '{column.name}': {counted(unknown, 'row')} mapped to '{OTHER}'")
            elif unknown:
                self.count(f"column '{column.name}' has a level that is not in the schema", unknown)
            if column.missing == "refuse":
                self.count(f"no value in column '{column.name}'", absent)

    def count(self, problem: str, rows: int) -> None:
        if rows:
            self.counts[problem] = self.counts.get(problem, 0) + rows

    def refuse(self, source: str) -> None:
        """Raises DataError with the rows of each problem, if there are any."""
        if self.counts:
            found = "; ".join(f"{counted(rows, 'row')}: {problem}" for problem, rows in self.counts.items())
            raise DataError(
                f"{source} does not fit the schema. {found}",
                hint=f"Correct the rows, or agree on a schema with the level '{OTHER}', `missing: level` or a wider "
                "range.",
            )


def _number(word: str | None) -> float:
    try:
        value = float(word or "nan")
    except ValueError:
        return float("nan")
    return value if np.isfinite(np.float32(value)) else float("nan")


def _code(codes: Mapping[str, int], word: str | None) -> int:
    """The code of a class. A typed column writes the class 1 as 1.0 if one of its cells is empty."""
    if word is None:
        return NO_CLASS
    return codes.get(word, codes.get(word.removesuffix(".0"), NO_CLASS))

"""Schema of a federation's table: columns, levels and classes in order, and the constants of standardisation.

Sites that number levels or classes differently train different models without an error. A schema fixes both before
any row is read, and its digest is part of every plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flctl.data.preprocessing import ABSENT, InputColumn, Inputs, Standardisation, TargetScale
from flctl.federation.identity import canonical
from flctl.partition.manifest import DatasetInfo

__all__ = ["FORMAT", "OTHER", "Schema", "SchemaColumn", "SchemaTarget", "SchemaTask"]

FORMAT = "flctl-schema/1"
OTHER = "other"
"""The level that unknown levels of its column are mapped to."""
SchemaTask = Literal["binary", "classification", "regression"]


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """One input column.

    A number has a `unit`, perhaps a `range` (least, largest), and the constants `mean` and `sd` that it is standardised
    by. A category has its `levels` in order. `missing` says what an empty cell becomes: the mean, a level of its own,
    or an error.
    """

    name: str
    kind: Literal["number", "category"]
    levels: tuple[str, ...] = ()
    unit: str = ""
    range: tuple[float, float] | None = None
    mean: float | None = None
    sd: float | None = None
    missing: Literal["refuse", "mean", "level"] = "refuse"

    @property
    def input_column(self) -> InputColumn:
        """The column and its features, as the fitted preprocessing describes them."""
        if self.kind == "number":
            return InputColumn(self.name, "number")
        absent = (ABSENT,) if self.missing == "level" else ()
        return InputColumn(self.name, "category", (*self.levels, *absent))

    def to_json(self) -> dict[str, Any]:
        """The column as plain values; what is not set is left out."""
        values: dict[str, Any] = {
            "name": self.name,
            "type": self.kind,
            "missing": self.missing,
            "unit": self.unit or None,
        }
        values |= {"levels": list(self.levels) or None, "range": None if self.range is None else list(self.range)}
        return _set_only({**values, "mean": self.mean, "sd": self.sd})


@dataclass(frozen=True, slots=True)
class SchemaTarget:
    """The column to predict: its classes in order, or the unit, range and standardisation of a number."""

    name: str
    classes: tuple[str, ...] = ()
    unit: str = ""
    range: tuple[float, float] | None = None
    mean: float | None = None
    sd: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The target as plain values; what is not set is left out."""
        values: dict[str, Any] = {"column": self.name, "classes": list(self.classes) or None, "unit": self.unit or None}
        values |= {"range": None if self.range is None else list(self.range), "mean": self.mean, "sd": self.sd}
        return _set_only(values)


@dataclass(frozen=True, slots=True)
class Schema:
    """The table that all sites of a federation have: what `read_schema` returns.

    `missing` are the words, besides the empty cell, that mean a missing value.
    """

    name: str
    task: SchemaTask
    target: SchemaTarget
    columns: tuple[SchemaColumn, ...]
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical form: comments and layout of the file do not count."""
        return canonical.digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The schema as plain values."""
        return {
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "target": self.target.to_json(),
            "columns": [column.to_json() for column in self.columns],
            "missing": list(self.missing),
        }

    @property
    def inputs(self) -> Inputs:
        """The columns and the features that they become, in feature order."""
        columns = tuple(column.input_column for column in self.columns)
        source = (*(column.name for column in self.columns), self.target.name)
        return Inputs(columns, self.target.name, source, self.missing)

    @property
    def features(self) -> int:
        """Number of features of one row."""
        return len(self.inputs.features)

    @property
    def numeric(self) -> tuple[int, ...] | None:
        """Indices of the features that are numbers; None if all are."""
        found, start = [], 0
        for column in self.columns:
            found += [start] if column.kind == "number" else []
            start += len(column.input_column.features)
        return None if len(found) == start else tuple(found)

    @property
    def standardisation(self) -> Standardisation:
        """The schema's constants by feature; features without them are left as they are."""
        target = None
        if self.target.mean is not None and self.target.sd is not None:
            target = TargetScale(self.target.mean, self.target.sd)
        if all(column.mean is None for column in self.columns):
            return Standardisation("none", target=target)
        shift, scale = [], []
        for column in self.columns:
            count = len(column.input_column.features)
            shift += [column.mean or 0.0] * count
            scale += [1.0 if column.sd is None else column.sd] * count
        return Standardisation("feature", tuple(shift), tuple(scale), target)

    def described(self) -> DatasetInfo:
        """The data set as a partition's manifest describes it. Its digest is the schema's, not that of any rows."""
        return DatasetInfo(
            name=self.name,
            task=self.task,
            source="",
            digest=f"sha256:{self.digest}",
            classes=self.target.classes,
            features=self.inputs.features,
            shape=(self.features,),
            numeric=self.numeric,
            options={},
        )


def _set_only(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are set; whole floats become integers, so that 50 and 50.0 give one digest."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value

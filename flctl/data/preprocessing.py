"""The fitted preprocessing: everything that turns rows of a source into a model's inputs, as one frozen value.

It is fitted when data is partitioned, stored in the partition's manifest, copied into each run and each exported
model, and applied to new rows there. It holds names and statistics, never rows.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flctl.errors import counted
from flctl.json_files import JsonFormat
from flctl.types import TaskKind

__all__ = [
    "ABSENT",
    "FORMAT",
    "FittedPreprocessing",
    "InputColumn",
    "Inputs",
    "Standardisation",
    "TargetScale",
    "parse_preprocessing",
]

FORMAT = "flctl-preprocessing/1"
_DESCRIBED = JsonFormat(FORMAT, "Restore the file as it was written.")
ABSENT = "(missing)"
"""The level, and the group, of rows whose cell is missing."""
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One column of a table and the features it becomes.

    A number is one feature: float32(value - offset), subtracted in float64; a missing one is NaN and becomes 0 after
    standardisation, the mean. A category is one feature for each of `levels`, in that order, 1 at the row's level and
    else 0; `(missing)` is the last level if training rows had missing cells. A date is one feature as a number is: its
    `part`, parsed by `format` (see `dates`). `fill` takes the place of a missing number, counted from the offset; with
    `indicator` there is a second feature, 1 if the number is missing and else 0.

    >>> InputColumn("sex", "category", ("f", "m")).features
    ('sex=f', 'sex=m')
    >>> InputColumn("age", "number", indicator=True).features
    ('age', 'age (missing)')
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: str
    kind: Literal["number", "category", "date"]
    levels: tuple[str, ...] = ()
    offset: float = 0.0
    part: str = ""
    format: str = ""
    fill: float | None = None
    indicator: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, as `Dataset.features` has them."""
        if self.kind == "category":
            return tuple(f"{self.name}={level}" for level in self.levels)
        name = f"{self.name}:{self.part}" if self.kind == "date" else self.name
        return (name, f"{name} {ABSENT}") if self.indicator else (name,)

    @property
    def offsets(self) -> tuple[float, ...]:
        """Numbers that are subtracted from the features, in their order."""
        return (self.offset, *(0.0 for _ in self.features[1:]))


@dataclass(frozen=True, slots=True)
class Inputs:
    """The columns of a table that a model learns from, in feature order, and the table they come from.

    `source` are the names of all columns of the source in its order (c0, c1 ... if it had no header row), `target` is
    the column to predict, `missing` the words besides the empty cell that mean a missing value.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    columns: tuple[InputColumn, ...]
    target: str | None = None
    source: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features [n] that the columns become."""
        return tuple(name for column in self.columns for name in column.features)


@dataclass(frozen=True, slots=True)
class TargetScale:
    """Regression targets: y' = (y - shift) / scale."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    shift: float
    scale: float


@dataclass(frozen=True, slots=True)
class Standardisation:
    """x' = (x - shift) / scale by feature (`shift` has one entry a feature) or by image channel, 0 if x is missing.

    The statistics are those of all clients' training rows together, merged from each client's sums.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["feature", "channel", "none"]
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    target: TargetScale | None = None


@dataclass(frozen=True, slots=True)
class FittedPreprocessing:
    """Mapping from a source's rows to inputs [n, *shape], and from outputs to classes or to the target's units.

    `dtype` is that of an example before standardisation: "|u1" (bytes), "<f4", or codes of characters. `classes` are in
    code order; for text they are the vocabulary. `inputs` describes tables and is None for other data, and for
    partitions of versions that did not keep it. `reader` and `options` are those of the source.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    task: TaskKind
    shape: tuple[int, ...]
    dtype: str
    standardisation: Standardisation
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    inputs: Inputs | None = None
    reader: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT

    @property
    def is_table(self) -> bool:
        """True if examples are rows of a table: one value a feature, and no text."""
        return len(self.shape) == 1 and self.task != "next-character"

    @property
    def outputs(self) -> int:
        """Number of outputs that a model needs: classes or characters; 1 for binary and regression."""
        return 1 if self.task in ("binary", "regression") else len(self.classes)

    @property
    def target_scale(self) -> tuple[float, float]:
        """(shift, scale) of regression targets in the data's units; (0, 1) if they were not standardised."""
        target = self.standardisation.target
        return (0.0, 1.0) if target is None else (target.shift, target.scale)

    def serialise(self) -> bytes:
        """UTF-8 JSON: the same bytes for equal values."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_preprocessing(data: bytes, where: str) -> FittedPreprocessing:
    """Returns the value that `data` holds; `where` names the file in errors.

    Raises IntegrityError if it is damaged, IncompatibleError if another version of flctl wrote it.
    """
    _DESCRIBED.parse(data, where)
    try:
        fitted = _adapter().validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise _DESCRIBED.damaged(where, f"{key}: {first['msg']}") from error
    if problem := _contradiction(fitted):
        raise _DESCRIBED.damaged(where, problem)
    return fitted


@cache
def _adapter() -> TypeAdapter[FittedPreprocessing]:
    return TypeAdapter(FittedPreprocessing)


def _contradiction(fitted: FittedPreprocessing) -> str | None:
    """Describes the first contradiction between the parts; None if they agree."""
    done, size = fitted.standardisation, math.prod(fitted.shape)
    expected = {"none": 0, "feature": size, "channel": fitted.shape[0] if fitted.shape else 0}[done.kind]
    if len(done.shift) != expected or len(done.scale) != expected or min(done.scale, default=1.0) <= 0:
        return f"standardisation by {done.kind} needs {expected} shifts and positive scales"
    if fitted.inputs is not None and len(fitted.inputs.features) != size:
        return f"the columns become {counted(len(fitted.inputs.features), 'feature')}, the shape has {size}"
    if fitted.task != "regression" and not fitted.classes:
        return "there are no classes"
    return None

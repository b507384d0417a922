"""Metrics of subgroups of the test rows: the rows of each category of a column, or of each quarter of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.data.columns import is_number
from flctl.data.preprocessing import ABSENT
from flctl.errors import DataError, counted, suggest
from flctl.evaluation.evaluate import Evaluation
from flctl.evaluation.intervals import Interval, intervals
from flctl.evaluation.metrics import score
from flctl.evaluation.outcomes import taken
from flctl.types import FloatArray

if TYPE_CHECKING:
    from flctl.partition.store import Partition

__all__ = ["FLOOR", "Subgroup", "column_words", "grouped", "subgroups", "text_groups"]

FLOOR = 10
"""Rows below which a subgroup is named and has no metric."""
MOST_VALUES = 8
"""Distinct numbers up to which each is a subgroup; beyond, the quarters are."""
MOST_GROUPS = 100
Words = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Rows of one value of a column; `values` and `intervals` are empty below `FLOOR` rows."""

    name: str
    rows: int
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]


def subgroups(evaluation: Evaluation, classes: tuple[str, ...], words: Words) -> list[Subgroup]:
    """Returns the metrics of each group of central test rows, by `words` [n], the group of each row: numbers in their
    order, others by size.

    Raises DataError for more than `MOST_GROUPS` groups.
    """
    names, owner, counts = np.unique(words, return_inverse=True, return_counts=True)
    if len(names) > MOST_GROUPS:
        raise DataError(
            f"the column has {counted(len(names), 'value')} in the test rows, above the limit of {MOST_GROUPS}",
            hint="Name a column of categories, or of numbers.",
        )
    order = _in_order(names, counts)
    return [_subgroup(evaluation, classes, str(names[k]), np.flatnonzero(owner == k)) for k in order.tolist()]


def _in_order(names: Words, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of the groups: by number if they have one, as `[18, 29)`, otherwise the largest first."""
    starts = [name.strip("[").partition(",")[0] for name in names.tolist()]
    numbers = np.array([float(start) if is_number(start) else np.nan for start in starts])
    if np.isnan(numbers[names != ABSENT]).any():
        return np.argsort(-counts, kind="stable")
    return np.argsort(numbers, kind="stable")


def _subgroup(evaluation: Evaluation, classes: tuple[str, ...], name: str, rows: npt.NDArray[np.int64]) -> Subgroup:
    if len(rows) < FLOOR:
        return Subgroup(name, len(rows), {}, {})
    positive, outcomes = evaluation.decision.positive, taken(evaluation.central_outcomes, rows)
    found = intervals(outcomes, len(classes), positive)
    return Subgroup(name, len(rows), score(outcomes, classes, positive).values, found)


def column_words(partition: Partition, name: str) -> Words:
    """Returns the group of each central test row by a column of the features: a category, or a quarter of its numbers.

    Raises DataError for any other column.
    """
    columns = _columns(partition)
    if name not in columns:
        file = f"To group by a column that the model does not see: --data FILE --trained-rows leave-out --by {name}"
        hint = suggest(name, columns) or file
        raise DataError(f"'{name}' is not a column of the features of {partition.path}", hint=hint)
    first, levels, offset = columns[name]
    x = _test_features(partition, slice(first, first + max(1, len(levels))))
    if levels:
        # A row of all zeros has a category that training rows never had.
        codes = np.where(x.any(axis=1), x.argmax(axis=1), len(levels))
        return np.array([*levels, ABSENT])[codes]
    return grouped(x[:, 0].astype(np.float64) + offset)


def text_groups(words: Words) -> Words:
    """Returns the group of each row by a column's text: the text, or the quarter of the numbers that it stands for."""
    numbers = np.array([float(word) if is_number(word) else np.nan for word in words.tolist()])
    text = np.isnan(numbers) & (words != ABSENT)
    return words if text.any() else grouped(numbers)


def grouped(values: FloatArray) -> Words:
    """Returns the group [n] of each number: itself if there are few, else its quarter, as `[18, 29)`.

    >>> sorted(set(grouped(np.arange(100.0)).tolist()))
    ['[0, 24.8)', '[24.8, 49.5)', '[49.5, 74.2)', '[74.2, 99]']
    """
    defined = values[np.isfinite(values)]
    distinct = np.unique(defined)
    if len(distinct) <= MOST_VALUES:
        return np.array([f"{value:g}" if np.isfinite(value) else ABSENT for value in values], np.str_)
    edges = np.unique(np.quantile(defined, (0, 0.25, 0.5, 0.75, 1)))
    ends = [")"] * (len(edges) - 2) + ["]"]
    names = [f"[{a:.3g}, {b:.3g}{end}" for a, b, end in zip(edges[:-1], edges[1:], ends, strict=True)]
    group = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    return np.where(np.isfinite(values), np.array(names)[group], ABSENT)


def _columns(partition: Partition) -> dict[str, tuple[int, tuple[str, ...], float]]:
    """Column -> (its first feature, its levels if it is one of categories, the offset of its numbers)."""
    inputs, found, first = partition.manifest.inputs, {}, 0
    if inputs is None:
        features = partition.manifest.dataset.features if len(partition.shape) == 1 else ()
        return {name: (index, (), 0.0) for index, name in enumerate(features)}
    for column in inputs.columns:
        found[column.name] = (first, column.levels if column.kind == "category" else (), column.offset)
        first += len(column.features)
    return found


def _test_features(partition: Partition, columns: slice) -> npt.NDArray[Any]:
    """Features of the central test rows, as the source had them."""
    if partition.manifest.central_test == "own":
        return np.array(partition.column("test_x")[:, columns])
    bounds, x = partition.bounds, partition.column("x")
    return np.concatenate([x[start:stop, columns] for start, stop in bounds[:, 1:].tolist()])

"""Encoding of a target: label codes with class names, or numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.options import Task
from flctl.data.precision import SAMPLE, merges
from flctl.errors import DataError, counted
from flctl.types import IntArray, TaskKind

__all__ = ["AUTO_CLASSES", "MAX_CLASSES", "Target", "encode", "encode_labels", "from_levels", "from_numbers"]

AUTO_CLASSES = 20
"""With `task: auto`, whole numbers with more distinct values than this are a quantity and not a label."""
MAX_CLASSES = 10_000
_WHOLE = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Target:
    """An encoded target: int64 codes [n] with class names, or numbers [n], float32 if that tells them apart."""

    task: TaskKind
    y: npt.NDArray[Any]
    classes: tuple[str, ...] = ()


def encode(values: npt.NDArray[Any], task: Task, name: str) -> Target:
    """Encodes an array [n] of numbers, booleans or text. Raises DataError where the task does not fit it."""
    if values.dtype.kind in "USb":
        levels, codes = np.unique(_as_text(values), return_inverse=True)
        return from_levels(codes.astype(np.int64), [str(level) for level in levels], task, name)
    if values.dtype.kind in "iuf":
        return from_numbers(values, task, name)
    raise DataError(f"{name}: values of type {values.dtype} are neither numbers nor text")


def encode_labels(values: npt.NDArray[Any], name: str) -> Target:
    """Encodes whole numbers that are labels whatever their number, as image formats store them."""
    return encode(values, "classification", name)


def from_levels(codes: IntArray, levels: Sequence[str], task: Task, name: str) -> Target:
    """Encodes text: `codes` index `levels`; classes are the levels in sorted order, whole numbers by value."""
    _refuse_wrong_count(len(levels), task, name)
    if task == "regression":
        raise DataError(f"target '{name}' holds text ({_some(levels)}), and regression needs numbers")
    if task == "auto" and len(levels) > AUTO_CLASSES:
        raise DataError(
            f"target '{name}' has text with {counted(len(levels), 'distinct value')} ({_some(levels)})",
            hint="If these are labels, use --task classification; otherwise choose another --target.",
        )
    whole = all(map(_WHOLE.fullmatch, levels))
    order = sorted(range(len(levels)), key=lambda i: (int(levels[i]) if whole else 0, levels[i]))
    rank = np.empty(len(levels), np.int64)
    rank[order] = np.arange(len(levels))
    return Target(_label_task(len(levels), task), rank[codes], tuple(levels[i] for i in order))


def from_numbers(values: npt.NDArray[Any], task: Task, name: str) -> Target:
    """Encodes numbers: labels where the task says so or, with `auto`, where they are few whole numbers.

    Raises DataError for NaN and for what is infinite as a 32-bit number.
    """
    _refuse_nonfinite(values, name)
    if task == "regression" or (task == "auto" and not _few_whole_numbers(values)):
        return _regression(values, name)
    levels, codes = np.unique(values, return_inverse=True)
    _refuse_wrong_count(len(levels), task, name)
    return Target(_label_task(len(levels), task), codes.astype(np.int64), tuple(_label(v) for v in levels.tolist()))


def _regression(values: npt.NDArray[Any], name: str) -> Target:
    if len(values) and (values == values[0]).all():
        raise DataError(f"target '{name}' is {values[0]} in every row: there is nothing to learn")
    # 64 bits where 32 would merge targets, as of 1e9 and little more; they are standardised before they are cast.
    step = max(1, len(values) // SAMPLE)
    wide = merges(values) or merges(values[::step])
    return Target("regression", values.astype(np.float64 if wide else np.float32))


def _refuse_nonfinite(values: npt.NDArray[Any], name: str) -> None:
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"target '{name}', row {row}: {values[row]} is not a finite 32-bit number")


def _few_whole_numbers(values: npt.NDArray[Any]) -> bool:
    # A look at the first rows settles most columns without sorting millions of values.
    for part in (values[:10_000], values):
        distinct = np.unique(part)
        if len(distinct) > AUTO_CLASSES or not (distinct == np.floor(distinct)).all():
            return False
    return True


def _label_task(count: int, task: Task) -> TaskKind:
    return "binary" if task == "binary" or (task == "auto" and count == 2) else "classification"


def _refuse_wrong_count(count: int, task: Task, name: str) -> None:
    if count < 2:
        raise DataError(
            f"target '{name}' has only one class: there is nothing to learn", hint="Choose another --target."
        )
    if task == "binary" and count != 2:
        raise DataError(f"target '{name}' has {counted(count, 'class', 'classes')}, and binary needs 2")
    if count > MAX_CLASSES:
        raise DataError(
            f"target '{name}' has {counted(count, 'distinct value')}, more than the limit of "
            f"{counted(MAX_CLASSES, 'class', 'classes')}",
            hint="If it is a quantity, use --task regression.",
        )


def _label(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _some(levels: Sequence[str]) -> str:
    return ", ".join(repr(level) for level in levels[:3]) + (", ..." if len(levels) > 3 else "")


def _as_text(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(np.str_)

"""Checks that a data set's fields have matching lengths and the types of its task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flctl.data.dataset import Dataset
from flctl.errors import counted

__all__ = ["faults_of"]

_TASKS = ("classification", "binary", "regression", "next-character")


def faults_of(dataset: Dataset) -> Iterator[str]:
    """Yields the faults of a data set, in sentences; nothing for a sound one."""
    x: Any = dataset.x  # a reader may give anything
    y: Any = dataset.y
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
        yield f"x is {type(x).__name__} and y is {type(y).__name__}, expected numpy arrays"
    elif dataset.task not in _TASKS:
        yield f"the task is {dataset.task!r}, expected one of {', '.join(_TASKS)}"
    elif not len(y) or len(x) != len(y):
        yield f"x has {counted(len(x), 'row')} and y has {len(y)}"
    else:
        yield from _of_x(dataset)
        yield from _of_y(dataset, y, "y")
        yield from _of_columns(dataset)
        yield from _of_test(dataset)


def _of_x(dataset: Dataset) -> Iterator[str]:
    x, text = dataset.x, dataset.task == "next-character"
    kinds = ("uint8", "int32") if text else ("uint8", "float32")
    if str(x.dtype) not in kinds:
        yield f"x is {x.dtype}, expected {' or '.join(kinds)}"
    elif x.ndim not in (2, 4):
        yield f"x has the shape {x.shape}, expected [n, features] or [n, channels, height, width]"
    elif x.dtype.kind == "f" and np.isinf(x).any():
        yield "x has infinite values (a missing one is NaN)"
    if not isinstance(dataset.name, str) or not dataset.name:
        yield f"the name is {dataset.name!r}"


def _of_y(dataset: Dataset, y: Any, what: str) -> Iterator[str]:
    expected = {"regression": "float32", "next-character": "int32"}.get(dataset.task, "int64")
    if str(y.dtype) != expected:
        yield f"{what} is {y.dtype}, expected {expected} for {dataset.task}"
    elif dataset.task == "next-character":
        if y.shape != (len(y), *dataset.x.shape[1:]):
            yield f"{what} has the shape {y.shape}, expected that of x"
    elif y.ndim != 1:
        yield f"{what} has the shape {y.shape}, expected one value a row"
    elif dataset.task == "regression":
        yield from [] if np.isfinite(y).all() else [f"{what} has values that are NaN or infinite"]
    elif y.min(initial=0) < 0 or y.max(initial=0) >= len(dataset.classes):
        yield f"{what} has codes {y.min()}..{y.max()}, expected 0..{len(dataset.classes) - 1}"


def _of_columns(dataset: Dataset) -> Iterator[str]:
    classes, width = dataset.classes, dataset.x.shape[1] if dataset.x.ndim > 1 else 0
    if len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        yield "classes are not distinct text"
    if dataset.task == "binary" and len(classes) != 2:
        yield f"the task is binary, and there are {counted(len(classes), 'class', 'classes')}"
    if dataset.features and len(dataset.features) != width:
        yield f"found {counted(len(dataset.features), 'feature name')} for {counted(width, 'column')}"
    if dataset.numeric is not None and not all(0 <= index < width for index in dataset.numeric):
        yield f"numeric names columns outside 0..{width - 1}"
    for name, group in dataset.groups.items():
        column = np.asarray(group)
        if column.shape != (len(dataset),) or column.dtype.kind != "U":
            yield f"group '{name}' is {column.dtype} {column.shape}, expected text [{len(dataset)}]"


def _of_test(dataset: Dataset) -> Iterator[str]:
    test = dataset.test
    if test is None:
        return
    if len(test.x) != len(test.y):
        yield f"the test part has {counted(len(test.x), 'example')} and {counted(len(test.y), 'target')}"
    elif test.x.shape[1:] != dataset.x.shape[1:] or test.x.dtype != dataset.x.dtype:
        yield f"the test part's x is {test.x.dtype} {test.x.shape}, expected {dataset.x.dtype} like {dataset.x.shape}"
    else:
        yield from _of_y(dataset, test.y, "the test part's y")

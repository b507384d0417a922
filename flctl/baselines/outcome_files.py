"""Outcomes of a model by row, kept in a file: numpy arrays, no pickle."""

from __future__ import annotations

import hashlib
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from flctl import atomic
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes

__all__ = ["Rows", "read_outcomes", "rows_of", "write_outcomes"]

Rows = ClassificationOutcomes | RegressionOutcomes
KINDS: dict[str, type[ClassificationOutcomes] | type[RegressionOutcomes]] = {
    "labels": ClassificationOutcomes,
    "numbers": RegressionOutcomes,
}


def write_outcomes(path: Path, outcomes: Rows) -> str:
    """Writes a file, whole or not at all, and returns its SHA-256."""
    kind = next(name for name, one in KINDS.items() if isinstance(outcomes, one))
    columns: dict[str, Any] = {field.name: getattr(outcomes, field.name) for field in fields(outcomes)}
    buffer = io.BytesIO()
    kept = {name: column for name, column in columns.items() if column is not None}
    np.savez_compressed(buffer, kind=np.array(kind), **kept)
    path.parent.mkdir(exist_ok=True)
    atomic.write_file(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_outcomes(path: Path, sha256: str) -> Rows | None:
    """The outcomes of a file; None if it is gone or not as it was written."""
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        kind = KINDS[str(arrays["kind"])]
        columns: dict[str, Any] = {name: arrays[name] for name in arrays.files if name != "kind"}
        return kind(**columns)


def rows_of(outcomes: Rows, start: int, stop: int) -> Rows:
    """The outcomes of the rows `start:stop`."""
    columns: dict[str, Any] = {}
    for field in fields(outcomes):
        column = getattr(outcomes, field.name)
        columns[field.name] = None if column is None else column[start:stop]
    return type(outcomes)(**columns)

"""Checks of a stored partition: its bytes, one owner for each row, and the values of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import IntegrityError, counted
from flctl.partition.store import CHUNK_BYTES, Partition

__all__ = ["Verified", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a check: `files` with `bytes` have their digests, each of `owned` source rows has one owner, and these
    and the `left_out` ones are all `rows` of the source."""

    files: int
    bytes: int
    rows: int
    owned: int
    left_out: int


def verify(partition: Partition) -> Verified:
    """Checks digests, overlap, coverage and values.

    Raises IntegrityError that names what is wrong. What the counts by client say was checked on opening.
    """
    partition.verify_digests()
    counts = partition.manifest.rows
    owned = counts.train + counts.validation + counts.test
    total = owned + counts.left_out
    _check_owners(partition, total)
    _check_ids(partition)
    _check_values(partition)
    paths = [partition.path / column.file for column in partition.manifest.columns.values()]
    return Verified(len(paths), sum(path.stat().st_size for path in paths), total, owned, counts.left_out)


def _check_owners(partition: Partition, total: int) -> None:
    names = [name for name in ("source_row", "validation_row") if name in partition.manifest.columns]
    source = np.sort(np.concatenate([partition.column(name) for name in names]))
    twice = np.flatnonzero(source[1:] == source[:-1])
    if len(twice):
        others = f", and {len(twice) - 1:,} others" if len(twice) > 1 else ""
        raise _wrong(partition, f"row {source[twice[0]]} of the source is owned more than once{others}")
    if len(source) and not (source[0] >= 0 and source[-1] < total):
        raise _wrong(partition, f"a row outside the {counted(total, 'row')} of the source is owned")


def _check_ids(partition: Partition) -> None:
    ids = partition.column("client_ids")
    if not (ids != "").all():
        raise _wrong(partition, "a client has no id")
    if len(np.unique(ids)) < len(ids):
        raise _wrong(partition, "two clients have the same id")


def _check_values(partition: Partition) -> None:
    """Refuses values that would fail in training, far from their cause. Reading a column checks its codes."""
    for name in ("x", "y", "test_x", "test_y", "validation_x", "validation_y"):
        if name not in partition.manifest.columns:
            continue
        values = partition.column(name)
        if values.dtype.kind == "f" and not _finite(values, missing=name.endswith("x")):
            what = "values" if name.endswith("x") else "targets"
            raise _wrong(partition, f"{name} has {what} that are not finite")


def _finite(values: npt.NDArray[Any], *, missing: bool) -> bool:
    """True if no value is infinite, nor NaN unless a cell may be `missing`. Reads in chunks, as a map may be large."""
    step = max(1, CHUNK_BYTES // max(1, values[:1].nbytes))
    chunks = (values[start : start + step] for start in range(0, len(values), step))
    return not any((np.isinf(chunk) if missing else ~np.isfinite(chunk)).any() for chunk in chunks)


def _wrong(partition: Partition, reason: str) -> IntegrityError:
    return IntegrityError(f"partition {partition.path.name}: {reason}", hint="Partition the data again.")

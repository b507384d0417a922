"""A partition's training rows under another assignment to clients: all at one, one alone, all but one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.partition.manifest import Manifest, RowCounts, digest_of
from flctl.partition.store import Partition
from flctl.types import IntArray

__all__ = ["Kind", "PickedColumn", "ReassignedPartition", "Reassignment", "reassign", "without_test_rows"]

Kind = Literal["pooled", "alone", "left-out"]
POOLED_ID = "0"
"""Id of the only client of pooled rows, as of a partition that was made with one client."""


@dataclass(frozen=True, slots=True)
class Reassignment:
    """All training rows at one client (pooled), client `index` alone, or all clients but `index` (left-out)."""

    kind: Kind
    index: int = 0

    @property
    def name(self) -> str:
        """Name of the assignment: pooled, alone-7, left-out-7."""
        return self.kind if self.kind == "pooled" else f"{self.kind}-{self.index}"


class PickedColumn:
    """Rows of another column, by number, read as a stored one is."""

    def __init__(self, source: Any, picked: IntArray) -> None:
        self._source, self._picked = source, picked
        self.rows = len(picked)

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """A copy of all rows."""
        return self.read(0, self.rows)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the rows `start:stop`."""
        found: npt.NDArray[Any] = self._source.take(self._picked[start:stop])
        return found

    def take(self, rows: IntArray, into: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A copy of the rows with these numbers; `into` an array of its dtype if one is given."""
        found: npt.NDArray[Any] = self._source.take(self._picked[rows], into)
        return found


class ReassignedPartition(Partition):
    """Training rows of a partition, read from its columns without a copy; it has neither test nor validation rows.

    Made by `reassign`. Rows are standardised by the statistics of the whole partition.
    """

    def __init__(self, source: Partition, reassignment: Reassignment) -> None:
        self.reassignment = reassignment
        picked, bounds, ids = _assignment(source, reassignment)
        rows = RowCounts(len(picked), 0, 0, source.manifest.rows.train - len(picked))
        manifest = replace(source.manifest, clients=len(ids), rows=rows, central_test="clients")
        digest = digest_of(f"{source.digest} {reassignment.name}".encode())
        whole = np.arange(len(ids))
        columns: Any = {
            **{name: PickedColumn(source._columns[name], picked) for name in ("x", "y", "source_row")},
            "bounds": PickedColumn(_Rows(bounds), whole),
            "client_ids": PickedColumn(_Rows(ids), whole),
        }
        super().__init__(source.path, manifest, digest, columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, (self.path, self.reassignment))


@dataclass(frozen=True, slots=True)
class _Rows:
    """An array, read as a stored column is."""

    array: npt.NDArray[Any]

    def take(self, rows: IntArray, into: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        return np.take(self.array, rows, axis=0, out=into)


def reassign(source: Partition, reassignment: Reassignment) -> Partition:
    """Returns the partition's training rows under another assignment.

    Pooled rows are in the order of the source, and those of a client in the order that they have there, so that
    training on them is that on a partition of these rows alone.
    """
    return ReassignedPartition(source, reassignment)


class _FewerTests(Partition):
    """A partition without some of its clients' test rows. Made by `without_test_rows`."""

    def __init__(self, source: Partition, seen: npt.NDArray[np.bool_]) -> None:
        start, train_end, end = source.bounds.T
        kept = np.ones(int(end[-1]), bool)
        client = np.repeat(np.arange(source.clients), end - start)
        kept[np.flatnonzero(np.arange(len(kept)) >= train_end[client])[seen]] = False
        tests = np.bincount(client[kept], minlength=source.clients) - (train_end - start)
        ends = np.cumsum(train_end - start + tests)
        bounds = np.stack([ends - tests - (train_end - start), ends - tests, ends], axis=1)
        columns: Any = dict(source._columns)
        columns |= {name: PickedColumn(columns[name], np.flatnonzero(kept)) for name in ("x", "y", "source_row")}
        columns["bounds"] = PickedColumn(_Rows(bounds), np.arange(source.clients))
        super().__init__(source.path, _fewer(source, kept, int(tests.sum())), source.digest, columns)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a partition without some test rows is not sent to other processes")


def _fewer(source: Partition, kept: npt.NDArray[np.bool_], tests: int) -> Manifest:
    """The manifest, with a bounds column that names the rows: models are paired by its digest."""
    manifest = source.manifest
    central = tests if manifest.central_test == "clients" else manifest.rows.central_test
    named = hashlib.sha256(manifest.columns["bounds"].sha256.encode() + np.packbits(kept).tobytes()).hexdigest()
    columns = {**manifest.columns, "bounds": replace(manifest.columns["bounds"], sha256=named)}
    return replace(manifest, columns=columns, rows=replace(manifest.rows, test=tests, central_test=central))


def without_test_rows(partition: Partition, seen: npt.NDArray[np.bool_]) -> Partition:
    """Returns the partition without those of its clients' test rows [n], in client order, that are `seen`."""
    return _FewerTests(partition, seen)


def _reopened(path: Path, reassignment: Reassignment) -> Partition:
    return reassign(Partition.open(path), reassignment)


def _assignment(source: Partition, reassignment: Reassignment) -> tuple[IntArray, IntArray, npt.NDArray[np.str_]]:
    """The stored rows [n], bounds [K, 3] and ids [K] of the clients."""
    start, train_end, _ = source.bounds.T
    sizes = train_end - start
    index, every = reassignment.index, np.arange(source.clients)
    if reassignment.kind == "alone":
        rows, ids = np.arange(start[index], train_end[index]), source.client_ids.take(every[index : index + 1])
        return rows, np.array([[0, len(rows), len(rows)]], np.int64), ids
    sizes = np.where(every == index, 0, sizes) if reassignment.kind == "left-out" else sizes
    ends = np.cumsum(sizes)
    rows = np.arange(int(sizes.sum())) + np.repeat(start - (ends - sizes), sizes)
    if reassignment.kind == "left-out":
        return rows, np.stack([ends - sizes, ends, ends], axis=1), source.client_ids.take(every)
    rows = rows[np.argsort(source.column("source_row")[rows], kind="stable")]
    return rows, np.array([[0, len(rows), len(rows)]], np.int64), np.array([POOLED_ID])

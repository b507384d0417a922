"""Partitions whose rows stay with their owners: no rows for the server, one client's rows at its site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import DataError, IncompatibleError, counted
from flctl.partition.manifest import Manifest
from flctl.partition.store import Partition
from flctl.partition.view import PartitionView
from flctl.types import Batch, IntArray

__all__ = ["FederatedData", "SiteData", "two_digits"]


class FederatedData(PartitionView):
    """The clients of a federation and the row counts that they declare; no rows.

    `counts` [K, 3] are the declared rows of each client, for training, testing and validation; [K, 2] without the last.
    Raises DataError unless they fit the client ids and are not negative.
    """

    def __init__(
        self, path: Path, manifest: Manifest, digest: str, client_ids: npt.NDArray[np.str_], counts: IntArray
    ) -> None:
        super().__init__(path, manifest, digest, client_ids)
        if counts.shape not in [(len(client_ids), kinds) for kinds in (2, 3)] or counts.min(initial=0) < 0:
            raise DataError(f"{path.name} declares row counts {counts.shape} of {counted(len(client_ids), 'client')}")
        self._counts = counts[:, :2]
        self._validation = counts[:, 2] if counts.shape[1] == 3 else np.zeros(len(client_ids), np.int64)

    @classmethod
    def of(cls, partition: Partition) -> FederatedData:
        """Returns the description of a partition without its rows, under the same digest: what a server would know."""
        rows = replace(partition.manifest.rows, central_test=0, central_validation=0)
        manifest = replace(partition.manifest, rows=rows, central_test="clients")
        ids = partition.client_ids.take(np.arange(partition.clients))
        counts = np.column_stack([partition.counts, partition.validation_counts])
        return cls(partition.path, manifest, partition.digest, ids, counts)

    @property
    def counts(self) -> IntArray:
        return self._counts

    @property
    def validation_counts(self) -> IntArray:
        return self._validation


class SiteData(PartitionView):
    """A federation as one of its clients sees it: all declared row counts, and its own rows, of which
    `train_sizes` knows the exact number.

    `own` is the partition in which the rows of `client_id` lie. Raises IncompatibleError if its data set is not the
    federation's: its task, shape, classes or standardisation, or the number of the client's rows.
    """

    def __init__(self, federation: FederatedData, own: Partition, client_id: str) -> None:
        ids = federation.client_ids.take(np.arange(federation.clients))
        super().__init__(own.path, federation.manifest, federation.digest, ids)
        self._federation, self._own = federation, own
        self._index, self._own_index = federation.index(client_id), own.index(client_id)
        self._check_data_set()

    def _check_data_set(self) -> None:
        declared, found = self.manifest, self._own.manifest
        facts = {
            "task": (declared.dataset.task, found.dataset.task),
            "shape": (declared.dataset.shape, found.dataset.shape),
            "classes": (declared.dataset.classes, found.dataset.classes),
            "standardisation": (declared.preprocess, found.preprocess),
            "rows": (self._federation.counts[self._index].tolist(), self._declarable()),
        }
        differing = [name for name, (expected, actual) in facts.items() if expected != actual]
        if differing:
            raise IncompatibleError(
                f"{self.path.name}: {', '.join(differing)} of the site's data are not those of the federation",
                hint="Pack the site's data again with the federation's schema.",
            )

    def _declarable(self) -> list[int]:
        """The client's rows as the federation has them: exact, or rounded if it has them so."""
        exact: list[int] = self._own.counts[self._own_index].tolist()
        rounded = [two_digits(count) for count in exact]
        return rounded if self._federation.counts[self._index].tolist() == rounded else exact

    @property
    def counts(self) -> IntArray:
        return self._federation.counts

    def train_sizes(self, clients: IntArray) -> IntArray:
        own = int(self._own.counts[self._own_index, 0])
        sizes: IntArray = np.where(clients == self._index, own, self.counts[clients, 0])
        return sizes

    @property
    def validation_counts(self) -> IntArray:
        counts = self._federation.validation_counts.copy()
        counts[self._index] = self._own.validation_counts[self._own_index]
        return counts

    def verify_digests(self) -> None:
        self._own.verify_digests()

    def train(self, index: int) -> Batch:
        return self._own.train(self._own_place(index))

    def train_labels(self, index: int) -> npt.NDArray[Any]:
        return self._own.train_labels(self._own_place(index))

    def validation(self, index: int) -> Batch:
        return self._own.validation(self._own_place(index))

    def test(self, index: int) -> Batch:
        return self._own.test(self._own_place(index))

    def train_starts(self, clients: IntArray) -> IntArray:
        return self._own.train_starts(np.array([self._own_place(index) for index in clients.tolist()], np.int64))

    def empty(self) -> Batch:
        return self._own.empty()

    def take(self, rows: IntArray, into: Batch) -> None:
        start, stop = self._own.bounds[self._own_index, [0, 2]].tolist()
        if rows.size and (int(rows.min()) < start or int(rows.max()) >= stop):
            raise self._elsewhere("all clients")
        self._own.take(rows, into)

    def _own_place(self, index: int) -> int:
        """Returns the index in the site's own partition. Raises IncompatibleError for another client."""
        if self._checked(index) != self._index:
            raise self._elsewhere(self.client_ids[index])
        return self._own_index


def two_digits(count: int) -> int:
    """Returns a row count rounded to two significant digits, as clients may declare it.

    >>> [two_digits(count) for count in (7, 95, 105, 1249)]
    [7, 95, 110, 1200]
    """
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return (count + unit // 2) // unit * unit

"""A partition as a run sees it: the data set, the clients and their row counts, wherever the rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from flctl.errors import DataError, IncompatibleError, suggest
from flctl.partition.client_ids import ClientIds
from flctl.partition.manifest import Manifest
from flctl.types import Batch, IntArray, SelectionSplit, TaskKind

__all__ = ["PartitionView"]

SUGGEST_AMONG = 10_000
RowsOfClients = tuple[npt.NDArray[Any], npt.NDArray[Any], IntArray]


class PartitionView:
    """The data set, the clients and their row counts. The methods that read rows raise IncompatibleError here.

    Rows are read through the subclasses: `Partition` has all of them, `SiteData` those of one client, `FederatedData`
    none, because they stay with their owners. `counts` [K, 2] has each client's rows for training and for testing.
    """

    here: ClassVar[bool] = False
    """True if all rows are on this machine."""

    def __init__(self, path: Path, manifest: Manifest, digest: str, client_ids: npt.NDArray[np.str_]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self.client_ids = ClientIds(client_ids)

    @property
    def clients(self) -> int:
        """Number of clients; they are numbered from 0."""
        return self.manifest.clients

    @property
    def task(self) -> TaskKind:
        """Task of the data set."""
        return self.manifest.dataset.task

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's shape."""
        return self.manifest.dataset.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes (or characters) in code order."""
        return self.manifest.dataset.classes

    @property
    def outputs(self) -> int:
        """Number of outputs that a model needs: classes or characters; 1 for binary and regression."""
        return 1 if self.task in ("binary", "regression") else len(self.classes)

    @property
    def target_scale(self) -> tuple[float, float]:
        """(shift, scale) of regression targets in the data's units; (0, 1) where nothing was standardised."""
        target = self.manifest.preprocess.target
        return (0.0, 1.0) if target is None else (target.shift, target.scale)

    def index(self, client_id: str) -> int:
        """Returns the index of the client `client_id`. Raises DataError for an unknown client."""
        found = self.client_ids.find(client_id)
        if found is None:
            close = suggest(client_id, self.client_ids) if self.clients <= SUGGEST_AMONG else None
            hint = close or f"The first clients are {', '.join(self.client_ids[:5])}."
            raise DataError(f"partition {self.path.name} has no client '{client_id}'", hint=hint)
        return found

    @property
    def selection(self) -> SelectionSplit | None:
        """Split by whose rows a training picks its best round and stops: validation if there are such rows, else test.

        None without either.
        """
        rows = self.manifest.rows
        return "validation" if rows.central_validation else "test" if rows.central_test else None

    @property
    def own_selection(self) -> SelectionSplit | None:
        """Split by whose rows a training is judged at its clients: validation if clients have such rows, else test."""
        if self.validation_counts.any():
            return "validation"
        return "test" if self.counts[:, 1].any() else None

    @property
    def counts(self) -> IntArray:
        """Rows [K, 2] of each client: for training, for testing."""
        raise NotImplementedError

    def train_sizes(self, clients: IntArray) -> IntArray:
        """Training rows [K] of each client, given by index [K]."""
        sizes: IntArray = self.counts[clients, 0]
        return sizes

    @property
    def bounds(self) -> IntArray:
        """[K, 3]: where a client's rows start, its training rows end, and its rows end. Read-only."""
        raise self._elsewhere("all clients")

    @property
    def validation_counts(self) -> IntArray:
        """Validation rows [K] that each client holds back from training."""
        return np.zeros(self.clients, np.int64)

    def verify_digests(self) -> None:
        """Reads every file of rows. Raises IntegrityError naming those whose SHA-256 is not the manifest's."""

    def train(self, index: int) -> Batch:
        """The training rows (x, y) of client number `index`; may be empty."""
        raise self._elsewhere(self.client_ids[self._checked(index)])

    def train_labels(self, index: int) -> npt.NDArray[Any]:
        """The stored labels [n] of the training rows of client number `index`, as they were in the source."""
        raise self._elsewhere(self.client_ids[self._checked(index)])

    def validation(self, index: int) -> Batch:
        """The validation rows (x, y) of client number `index`; may be empty."""
        raise self._elsewhere(self.client_ids[self._checked(index)])

    def test(self, index: int) -> Batch:
        """The test rows (x, y) of client number `index`; may be empty."""
        raise self._elsewhere(self.client_ids[self._checked(index)])

    def train_starts(self, clients: IntArray) -> IntArray:
        """The numbers [K] for `take` of the first training row of each client, given by index [K]."""
        raise self._elsewhere("all clients")

    def empty(self) -> Batch:
        """No rows (x, y), of the shapes and dtypes that others have."""
        raise self._elsewhere("all clients")

    def take(self, rows: IntArray, into: Batch) -> None:
        """Writes the stored rows (x, y) with these numbers [n], in this order, into arrays like `empty`; `train_starts`
        says whose they are."""
        raise self._elsewhere("all clients")

    def central_test(self) -> Batch:
        """The central test rows (x, y): the source's own test part, else all clients' test rows together."""
        raise self._elsewhere("all clients")

    def central_validation(self) -> Batch:
        """The central validation rows (x, y): the source's own, else those of all clients together; may be empty."""
        raise self._elsewhere("all clients")

    def test_bounds(self) -> RowsOfClients:
        """(x, y, offsets [K + 1]): all clients' test rows in client order; client k's are
        `offsets[k]:offsets[k + 1]`."""
        raise self._elsewhere("all clients")

    def validation_bounds(self) -> RowsOfClients:
        """(x, y, offsets [K + 1]): all clients' validation rows in client order, laid out as in `test_bounds`."""
        raise self._elsewhere("all clients")

    def column(self, name: str) -> npt.NDArray[Any]:
        """The raw memory-mapped column `name`, read-only: rows as they were in the source.

        Raises IntegrityError where it holds codes that stand for no class.
        """
        raise self._elsewhere("all clients")

    def read_raw(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the stored rows `start:stop` of the column `name`, as they were in the source.

        Raises IntegrityError where they hold codes that stand for no class.
        """
        raise self._elsewhere("all clients")

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.clients:
            raise DataError(f"client number {index} is outside 0..{self.clients - 1}")
        return index

    def _elsewhere(self, whose: str) -> IncompatibleError:
        """The error of a method that reads rows which stay with their owner."""
        whose = whose if whose == "all clients" else f"client '{whose}'"
        hint = "Only local training at their site, and sums over clients, can use them."
        return IncompatibleError(f"{self.path.name}: the rows of {whose} stay with their owners", hint=hint)

"""Rows by which a training picks its best round and stops early, in the place of test rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.partition.store import Partition
from flctl.partition.view import PartitionView
from flctl.types import Batch, IntArray

__all__ = ["ValidationPartition", "for_selection"]


class ValidationPartition(Partition):
    """A partition with its validation rows in the place of its test rows, which it does not read. Made by
    `for_selection`."""

    def __init__(self, source: Partition) -> None:
        counts, own = source.manifest.rows, source.manifest.own_validation
        rows = replace(counts, test=counts.validation, central_test=counts.central_validation)
        manifest = replace(source.manifest, rows=rows, central_test="own" if own else "clients")
        super().__init__(source.path, manifest, source.digest, source._columns)

    @property
    def counts(self) -> IntArray:
        """Rows [K, 2] of each client: for training, for validation."""
        return np.stack([super().counts[:, 0], self.validation_counts], axis=1)

    def test(self, index: int) -> Batch:
        """The validation rows (x, y) of client number `index`."""
        return self.validation(index)

    def central_test(self) -> Batch:
        """The central validation rows (x, y)."""
        return self.central_validation()

    def test_bounds(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], IntArray]:
        """(x, y, offsets [K + 1]): all clients' validation rows in client order."""
        return self.validation_bounds()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("validation rows are scored by the server alone")


def for_selection(partition: PartitionView) -> PartitionView:
    """Returns the partition as a training evaluates its rounds: with validation rows for test rows if it has any."""
    if partition.selection == "validation" and isinstance(partition, Partition):
        return ValidationPartition(partition)
    return partition

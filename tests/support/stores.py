"""What the tests of the partition store share: schemes that deal rows as the test says, and a small table."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from hypothesis import settings

from flctl.data.dataset import Dataset
from flctl.partition.partitioner import Assignment, Partitioner
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition

quick = settings(deadline=None, max_examples=40)


class Owners(Partitioner):
    """A scheme for tests: the owner of each row is given."""

    name = "owners"

    def __init__(self, owner, clients=None, client_ids=None):
        super().__init__()
        self.owner = np.asarray(owner)
        self.clients = clients or int(self.owner.max()) + 1
        self.ids = client_ids

    def assign(self, rows, clients, rng):
        return Assignment(self.owner, self.clients, self.ids)


class Doubled(Owners):
    """Client k sees x + 100 k; labels become k."""

    def alter(self, x, y, client, clients, rng):
        return x + np.float32(100 * client), np.full_like(y, client)


def table(rows=10, columns=2, **fields) -> Dataset:
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    names = tuple(f"f{index}" for index in range(columns))
    given_fields = {"y": np.arange(rows) % 2, "classes": ("no", "yes"), "features": names} | fields
    return Dataset("table", "classification", x, **given_fields)


def store(out: Path, dataset: Dataset | None = None, scheme: Partitioner | None = None, **options) -> Partition:
    dataset = table() if dataset is None else dataset
    scheme = Owners(np.arange(len(dataset)) % 3) if scheme is None else scheme
    given_options = {"clients": None, "test_fraction": 0.25, "seed": 1, "standardise": "none"} | options
    return write_partition(out, dataset, scheme, PartitionSpec(**given_options))


def files(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }

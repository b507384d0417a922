"""Benchmark workloads: small federations on seeded data, with the models and sizes of McMahan et al. (2017) among
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.errors import counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition

__all__ = ["CLASSES", "IMAGE", "SEED", "WORKLOADS", "Workload", "make_partition"]

SEED = 7
CLASSES = 10
IMAGE = (1, 28, 28)


@dataclass(frozen=True, slots=True)
class Workload:
    """`clients` of `rows` examples each, `cohort` of them a round; one local epoch of plain SGD in batches."""

    name: str
    model: str
    shape: tuple[int, ...]
    clients: int
    cohort: int
    rows: int
    batch_size: int = 10
    lr: float = 0.05

    @property
    def title(self) -> str:
        """A description in one line."""
        clients = counted(self.clients, "client")
        return f"{self.model}, {self.cohort:,} of {clients} x {counted(self.rows, 'row')} per round"

    def settings(self) -> list[str]:
        """The configuration of its run, as `-o` takes it, without evaluation and checkpoints."""
        local = [f"local.batch_size={self.batch_size}", f"local.lr={self.lr}", "local.epochs=1"]
        quiet = ["eval.every=0", "checkpoint.every=0", "checkpoint.seconds=0"]
        return [f"model={self.model}", f"cohort.clients={self.cohort}", f"seed={SEED}", *local, *quiet]


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("softmax", "logreg", (60,), clients=10_000, cohort=1000, rows=20),
        Workload("2nn", "2nn", IMAGE, clients=1000, cohort=100, rows=20),
        Workload("cnn", "cnn", IMAGE, clients=20, cohort=4, rows=50),
    )
}


class _Dealt(Partitioner):
    """Deals rows in order, to each client as many."""

    name = "dealt"

    def __init__(self, clients: int, rows: int) -> None:
        super().__init__()
        self._owner = np.repeat(np.arange(clients), rows)

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        return Assignment(self._owner, int(self._owner[-1]) + 1)


def make_partition(workload: Workload, path: Path) -> Partition:
    """The workload's data in the new directory `path`: Gaussian classes, pixels from 0 to 255 for images."""
    rng = np.random.default_rng(SEED)
    count = workload.clients * workload.rows
    y = rng.integers(0, CLASSES, count)
    if workload.shape == IMAGE:
        # Blobs of 7 x 7 pixels, so that a convolution has something to find.
        blobs = rng.integers(0, 200, (CLASSES, 1, 4, 4), np.uint8).repeat(7, axis=2).repeat(7, axis=3)
        x: npt.NDArray[Any] = blobs[y] + rng.integers(0, 56, (count, *IMAGE), np.uint8)
    else:
        centres = 0.3 * rng.normal(size=(CLASSES, *workload.shape)).astype(np.float32)
        x = centres[y] + rng.standard_normal((count, *workload.shape), np.float32)
    dataset = Dataset("seeded", "classification", x, y, tuple(map(str, range(CLASSES))))
    dealt = _Dealt(workload.clients, workload.rows)
    return write_partition(path, dataset, dealt, PartitionSpec(clients=workload.clients, test_fraction=0.0, seed=SEED))

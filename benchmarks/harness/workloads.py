"""The workloads: their models, shapes and sizes, and the seeded partitions that are made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset, Split
from flctl.data.readers.idx import IdxReader
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition

__all__ = ["QUIET", "W1", "W2", "W3", "Workload", "make_partition", "ragged_sizes"]

SEED = 7
QUIET = ("eval.every=0", "checkpoint.every=0", "checkpoint.seconds=0")
"""No evaluation and no checkpoints: what a round by itself costs."""
IMAGE, FEATURES, CLASSES = (1, 28, 28), (60,), 10
SMALLEST, LARGEST, MEDIAN, SIGMA = 5, 500, 20, 1.0
"""Ragged clients: log-normal sizes with this median and spread, rounded and kept within 5..500."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One federation: `clients` with `rows` each (`ragged`: log-normal sizes), `cohort` of them a round; E=1, B=10.

    `tolerance`: how far models may be apart after a block, as part of how far they moved.
    `hidden`: the width of the 2nn's two layers, where it is not its own 200.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    clients: int
    cohort: int
    rows: int
    hidden: int | None = None
    ragged: bool = False
    lr: float = 0.05
    batch_size: int = 10
    tolerance: float = 2e-4

    @property
    def options(self) -> dict[str, int]:
        """The options of `torch_models.build`."""
        return {} if self.hidden is None else {"hidden": self.hidden}

    def settings(self) -> list[str]:
        """The configuration of a run, as `-o` takes it."""
        model = [] if self.hidden is None else [f"model.hidden=[{self.hidden}, {self.hidden}]"]
        local = ["local.epochs=1", f"local.batch_size={self.batch_size}", f"local.lr={self.lr}"]
        return [f"model={self.model}", *model, f"cohort.clients={self.cohort}", *local, f"seed={SEED}"]

    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows of each client."""
        if self.ragged:
            return ragged_sizes(self.clients)
        return np.full(self.clients, self.rows, np.int64)

    def tiny(self) -> Workload:
        """The same with a handful of clients, for the quick form."""
        return replace(self, clients=12, cohort=4, rows=min(self.rows, 20))


W1 = Workload("W1", "cnn", IMAGE, clients=100, cohort=10, rows=600, tolerance=0.01)
"""600 rows a client are 60 steps of pooling and ReLU, each of which can tip on a rounding and carry it on."""
W2 = Workload("W2", "2nn", IMAGE, clients=1000, cohort=100, rows=20, tolerance=0.002)
W3 = Workload("W3", "logreg", FEATURES, clients=10_000, cohort=1000, rows=20)


def ragged_sizes(clients: int) -> npt.NDArray[np.int64]:
    """Log-normal sizes from a seed."""
    drawn = np.random.default_rng(SEED).lognormal(np.log(MEDIAN), SIGMA, clients)
    return np.clip(drawn.round(), SMALLEST, LARGEST).astype(np.int64)


class Dealt(Partitioner):
    """Deals rows in order, to each client as many as it is to have."""

    name = "dealt"

    def __init__(self, sizes: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self.sizes = sizes

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        return Assignment(np.repeat(np.arange(len(self.sizes)), self.sizes), len(self.sizes))


def make_partition(workload: Workload, path: Path, *, real: bool) -> Partition:
    """Partitions the workload's data into `path`: MNIST for images where `real` and FLCTL_TEST_DATA has it, else
    seeded data of its shape."""
    sizes = workload.sizes()
    rows = int(sizes.sum())
    dataset = _images(rows, real=real) if workload.shape == IMAGE else _table(rows)
    return write_partition(
        path, dataset, Dealt(sizes), PartitionSpec(clients=workload.clients, test_fraction=0.0, seed=SEED)
    )


def _images(rows: int, *, real: bool) -> Dataset:
    folder = Path(os.environ.get("FLCTL_TEST_DATA", "")) / "mnist"
    if not (real and folder.is_dir()):
        return _seeded_images(rows)
    mnist = IdxReader().read(str(folder), SEED)
    taken = np.random.default_rng(SEED).permutation(len(mnist.y))[np.arange(rows) % len(mnist.y)]
    return replace(mnist, x=mnist.x[taken], y=mnist.y[taken])


def _seeded_images(rows: int) -> Dataset:
    """Ten blurred blobs with noise, as uint8."""
    rng = np.random.default_rng(SEED)
    blobs = rng.integers(0, 200, (CLASSES, 1, 4, 4)).repeat(7, axis=2).repeat(7, axis=3)

    def draw(count: int) -> Split:
        y = rng.integers(0, CLASSES, count)
        noise = rng.integers(0, 56, (count, *IMAGE), np.uint8)
        return Split((blobs[y] + noise).astype(np.uint8), y)

    train, test = draw(rows), draw(max(100, rows // 6))
    return Dataset("blobs", "classification", train.x, train.y, tuple("0123456789"), test=test)


def _table(rows: int) -> Dataset:
    """Ten Gaussian classes of 60 features."""
    rng = np.random.default_rng(SEED)
    centres = rng.normal(size=(CLASSES, *FEATURES)).astype(np.float32)

    def draw(count: int) -> Split:
        y = rng.integers(0, CLASSES, count)
        return Split(rng.standard_normal((count, *FEATURES), np.float32) + 0.3 * centres[y], y)

    train, test = draw(rows), draw(max(100, rows // 20))
    names = tuple(f"f{number}" for number in range(FEATURES[0]))
    return Dataset("gaussians", "classification", train.x, train.y, tuple("0123456789"), names, test=test)

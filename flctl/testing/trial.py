"""Trial runs: a tiny seeded partition, and training on it with the component under test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.types import FloatArray

if TYPE_CHECKING:
    from flctl.run.directory import RunDirectory
    from flctl.run.run import Run

__all__ = ["CLIENTS", "Quiet", "Trial", "TrialResult", "tiny_dataset"]

CLIENTS = 9
_SIZES = tuple(8 + 2 * client for client in range(CLIENTS))


class Quiet(Registry):
    """Registry of this process without observers, so that trial runs leave no curves or logs."""

    @property
    def hook(self) -> Any:
        """Announces nothing."""
        return _Silence()


class _Silence:
    def __getattr__(self, event: str) -> Any:
        return lambda **values: None


class _BySize(Partitioner):
    """Clients of 8, 10, 12 ... rows, in order."""

    name = "by-size"

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        return Assignment(np.repeat(np.arange(CLIENTS), _SIZES), CLIENTS)


def tiny_dataset() -> Dataset:
    """Three Gaussian classes in four dimensions, 144 rows."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, sum(_SIZES))
    x = rng.normal(size=(len(y), 4)) + 2.0 * np.eye(3, 4)[y]
    return Dataset("tiny", "classification", x.astype(np.float32), y.astype(np.int64), ("a", "b", "c"))


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Results of a trial run: digests of the files of its last checkpoint, and its weights laid end to end."""

    digests: Mapping[str, str]
    weights: FloatArray
    directory: Path


class Trial:
    """A partition of nine clients in a directory of its own, and runs on it. All clients take part in each round."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        self.directory = directory
        self.overrides = overrides
        self.partition: Partition = write_partition(
            directory / "parts", tiny_dataset(), _BySize(), PartitionSpec(clients=CLIENTS, test_fraction=0.2, seed=3)
        )
        self._runs = 0

    def prepare(self, *overrides: str, registry: Registry | None = None) -> tuple[Run, RunDirectory]:
        """A run that has not started, in a new run directory."""
        from flctl.config.load import load
        from flctl.run.directory import RunDirectory
        from flctl.run.run import Run

        self._runs += 1
        registry = registry or Quiet()
        base = [f"data={self.partition.path.as_posix()}", "model=logreg", "rounds=2", "cohort.sampling=all"]
        loaded = load(registry, overrides=[*_without_clash(base, (*self.overrides, *overrides))])
        path = self.directory / f"run-{self._runs}"
        directory = RunDirectory.create(path, loaded, self.partition)
        return Run.build(loaded.config, registry, self.partition, directory.memory), directory

    def train(self, *overrides: str, registry: Registry | None = None) -> TrialResult:
        """Trains a new run to its end."""
        from flctl.server.training import train

        run, directory = self.prepare(*overrides, registry=registry)
        train(run, directory)
        return _result(directory.path)

    def train_in_two(self, *overrides: str) -> TrialResult:
        """Trains one round, then goes on from the checkpoint with new objects, as a resume does."""
        from flctl.run.run import Run
        from flctl.server.training import train

        run, directory = self.prepare(*overrides)
        short = run.config.model_copy(update={"rounds": 1})
        train(Run.build(short, Quiet(), self.partition, directory.memory), directory)
        train(Run.build(run.config, Quiet(), self.partition, directory.memory), directory)
        return _result(directory.path)


def _without_clash(base: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Both, without the sampling of `base` where the overrides speak of the cohort themselves."""
    if any(text.startswith("cohort.") for text in overrides):
        base = [text for text in base if not text.startswith("cohort.")]
    return [*base, *overrides]


def _result(run: Path) -> TrialResult:
    from safetensors.numpy import load_file

    last = max((run / "checkpoints").glob("round-*"))
    files = sorted(last.glob("*.safetensors"))
    tensors: dict[str, npt.NDArray[Any]] = load_file(last / "model.safetensors")
    weights = np.concatenate([tensors[name].ravel().astype(np.float64) for name in sorted(tensors)])
    digests = {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return TrialResult(digests, weights, run)

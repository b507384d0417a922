"""What several test files build on: small seeded partitions, runs, and the command line in a process of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flctl.algorithms.aggregators.plain import PlainAggregator
from flctl.config.load import load
from flctl.data.dataset import Dataset
from flctl.engines.engine import Engine
from flctl.engines.inprocess import InProcessEngine
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.rounds import Rounds
from flctl.server.state import State
from flctl.server.training import TrainingResult, train
from flctl.types import ClientId, Failure, Reply, Request
from support import prefork


class Given(Partitioner):
    """Deals rows to clients as the test says."""

    name = "given"

    def __init__(self, owner: Sequence[int]) -> None:
        super().__init__()
        self.owner = np.array(owner, np.int64)

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        return Assignment(self.owner, int(self.owner.max()) + 1)


def toy_dataset(rows: int = 245, seed: int = 0) -> Dataset:
    """Three Gaussian classes in four dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    x = rng.normal(size=(rows, 4)) + 2.0 * np.eye(3, 4)[y]
    return Dataset("toy", "classification", x.astype(np.float32), y.astype(np.int64), ("a", "b", "c"), tuple("pqrs"))


def toy_partition(path: Path, clients: int = 10) -> Partition:
    """The toy data set dealt to clients of unequal size."""
    sizes = [20 + client for client in range(clients)]
    owner = np.repeat(np.arange(clients), sizes)
    dataset = toy_dataset(len(owner))
    return write_partition(path, dataset, Given(owner), PartitionSpec(clients=clients, test_fraction=0.2, seed=3))


def make_run(
    partition: Partition, path: Path, *overrides: str, registry: Registry | None = None
) -> tuple[Run, RunDirectory]:
    """A run over `partition` in the new directory `path`."""
    registry = registry or Registry()
    cohort = [] if any(text.startswith("cohort.") for text in overrides) else ["cohort.clients=4"]
    named = [f"data={partition.path.as_posix()}", "model=logreg", "rounds=4", *cohort, *overrides]
    loaded = load(registry, overrides=named)
    directory = RunDirectory.create(path, loaded, partition)
    return Run.build(loaded.config, registry, partition, directory.memory), directory


def train_run(partition: Partition, path: Path, *overrides: str, registry: Registry | None = None) -> TrainingResult:
    """Trains a run from its start to its end."""
    return train(*make_run(partition, path, *overrides, registry=registry))


def checkpoint_digests(path: Path) -> Mapping[str, str]:
    """Digest of each checkpoint's model and state."""
    files = sorted((path / "checkpoints").glob("round-*/*.safetensors"))
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def untimed_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock measured."""
    lines = [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "work")} for line in lines]


def flctl(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, forked from one that has imported torch."""
    command = [sys.executable, "-c", "from flctl.cli import main; main()", *arguments]
    return prefork.run(command, cwd=cwd, env=env)


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """The values, or tuples of them, as parameters of a test: all but those that begin with a quick one are slow."""
    several = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [() if value[0] in quick else pytest.mark.slow for value in several]
    return [pytest.param(*value, marks=mark) for value, mark in zip(several, marks, strict=True)]


class OneByOne(InProcessEngine):
    """In this process, where each client's message is made and opened."""

    name = "one-by-one"
    gathers = False


class Hidden(PlainAggregator):
    """The plain sum; the server is to learn nothing else."""

    name = "hidden"
    hides = True


def played(run: Run, rounds: int) -> tuple[Rounds, State, list[list[int]]]:
    """Plays so many rounds in this process: the server's half, its state after them, and who was asked in each."""
    cohorts = []
    with InProcessEngine().open(run) as engine:
        server = Rounds(run, engine)
        state = server.initial()
        for _ in range(rounds):
            cohorts.append(server.plan(state).numbers.tolist())
            state, _ = server.play(state, last=lambda seconds: False)
    return server, state, cohorts


class ScriptedEngine(Engine):
    """Answers in a given order from another engine, with scripted failures; what an engine may do at worst."""

    name = "scripted"

    def __init__(self, inner: Engine, failures: Mapping[ClientId, Failure | bytes], backwards: bool = False) -> None:
        super().__init__()
        self.inner, self.failures, self.backwards = inner, failures, backwards

    @contextmanager
    def open(self, run: Run) -> Iterator[ScriptedEngine]:
        with self.inner.open(run):
            yield self

    def clients(self) -> Sequence[ClientId]:
        return self.inner.clients()

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        answers = list(self.inner.exchange(requests, deadline))
        for client, answer in reversed(answers) if self.backwards else answers:
            scripted = self.failures.get(client, answer)
            yield client, Reply(scripted) if isinstance(scripted, bytes) else scripted

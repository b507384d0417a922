"""flctl as the benchmarks drive it: a run from the config loader, its engine, `Rounds.play`; and its rounds written
down for the floor."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flctl.config.load import load
from flctl.engines.engine import Engine
from flctl.executors.batches import local_keys, orders
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry
from flctl.run import cohort as cohorts
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.rounds import Rounds
from flctl.server.training import engine_name
from harness.workloads import QUIET

__all__ = ["PLUGIN", "Ours", "build_run", "executor_of", "opened", "write_data", "write_rounds"]

PLUGIN = Path(__file__).with_name("mean_of_each.py")


def build_run(
    partition: Partition, folder: Path, settings: Iterable[str], *, workers: int, executor: str | None = None
) -> Run:
    """A run over `partition` in the new directory `folder`; `executor` pins one, None leaves the choice to flctl."""
    registry = Registry()
    named = [f"data={partition.path.as_posix()}", f"engine.workers={workers}", *QUIET, *settings]
    named += [f"engine.executor={executor}"] if executor else []
    loaded = load(registry, overrides=named)
    directory = RunDirectory.create(folder, loaded, partition)
    return Run.build(loaded.config, registry, partition, directory.memory)


class Ours:
    """A run's rounds over its open engine; `play` is what is timed."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self.run, self.engine = run, engine
        self.rounds = Rounds(run, engine)
        self.state = self.rounds.initial()
        self.phases: dict[str, float] = {}

    def play(self, count: int) -> float:
        """Seconds that the next `count` rounds take."""
        started = time.perf_counter()
        for _ in range(count):
            self.state, report = self.rounds.play(self.state, last=lambda seconds: False)
            for phase, seconds in report.seconds.items():
                self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        return time.perf_counter() - started

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D] after the rounds played so far."""
        return np.array(self.state.params["params"])

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Takes `model` [D] for the global one."""
        self.state = replace(self.state, params={**self.state.params, "params": model})


@contextmanager
def opened(run: Run) -> Iterator[Ours]:
    """The run with its engine open."""
    engine = run.registry.get("engine", engine_name(run)).from_options(dict(run.config.engine.options))
    with engine.open(run):
        yield Ours(run, engine)


def executor_of(ours: Ours) -> str:
    """The executor that the run's rounds went through."""
    return ours.run.execution.executor


def write_data(partition: Partition, folder: Path) -> None:
    """All training rows in client order, as models take them: `x.npy`, `y.npy` and `bounds.npy` [K + 1]."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [partition.train(index) for index in range(partition.clients)]
    for name, column in zip("xy", zip(*shards, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(column))
    np.save(folder / "bounds.npy", np.r_[0, np.cumsum([len(y) for _, y in shards])])


def write_rounds(run: Run, folder: Path, numbers: Sequence[int]) -> None:
    """What each client of each round does in its one epoch: `round-N.npz` with the rows in the order of the steps,
    one client after the other, where each client's begin, the clients' weights in the mean, and who they are."""
    bounds = np.load(folder / "bounds.npy")
    eligible = np.flatnonzero(np.diff(bounds))
    ids, config = run.partition.client_ids, run.config
    for number in numbers:
        clients = cohorts.select(config.cohort, eligible, ids, number, config.seed)
        keys = local_keys(config.seed, number, np.array([ids[client] for client in clients]))
        sizes = run.partition.counts[clients, 0]
        inside = np.arange(sizes.max()) < sizes[:, None]
        np.savez(
            folder / f"round-{number}.npz",
            rows=(orders(keys, sizes, epoch=0) + bounds[clients, None])[inside],
            offsets=np.r_[0, np.cumsum(sizes)],
            weights=sizes / sizes.sum(),
            clients=clients,
        )

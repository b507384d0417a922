"""Paired, interleaved repeats: the hand-written loop, and flctl by each executor that can train the workload."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flctl.component import Catalogue
from flctl.config.load import load
from flctl.engines.engine import Engine
from flctl.errors import FlctlError, counted
from flctl.executors.choice import obstacles
from flctl.executors.sequential import single_thread
from flctl.partition.store import Partition
from flctl.performance.hand_written_loop import HandWrittenLoop
from flctl.performance.workloads import Workload, make_partition
from flctl.run.run import Run
from flctl.server.rounds import Rounds
from flctl.server.training import engine_class

__all__ = ["Agreement", "BenchmarkResult", "Contender", "Repeats", "Row", "agreement", "contest", "paired"]

FLOOR = "floor"
FEWEST, MOST, BUDGET = 3, 9, 9.0
"""Default number of repeats: at least and at most, and the seconds after which no repeat starts."""
TOLERANCE, BOUND = 2e-4, 0.05
"""Largest difference between two global models after a round, relative to the round's largest change of a parameter. In
the median repeat rounding stays five times below it, and another order of batches is above; in the worst repeat a ReLU
that rounding tips the other way is visible."""


class Contender(Protocol):
    """One implementation that is timed."""

    def play(self) -> float:
        """Plays the next round, and returns its seconds."""

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D] after the rounds played so far."""

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Continues from the global model [D]."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Distance of contenders' models from the hand-written loop's after a round, relative to the round's largest change
    of a parameter: in the median repeat, and in the worst."""

    middle: float
    worst: float


@dataclass(frozen=True, slots=True)
class Repeats:
    """Median, smallest and largest of repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Repeats:
        """Returns the statistics of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 3) -> str:
        """Returns `median (low-high)` with `digits` significant digits."""
        return "{} ({}-{})".format(*(f"{value:.{digits}g}" for value in (self.median, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train the workload: seconds per round, and the ratio to the paired rounds of the hand-written loop; or
    `reason`, if it cannot train it. `chosen`: the executor that flctl selects."""

    executor: str
    workers: int
    chosen: bool
    seconds: Repeats | None = None
    ratio: Repeats | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One workload: seconds per round of the hand-written loop and of each executor of flctl, the number of repeats,
    and the agreement of their models."""

    workload: str
    title: str
    repeats: int
    floor: Repeats
    rows: tuple[Row, ...]
    agreement: Agreement

    def data(self) -> dict[str, Any]:
        """Returns the result as in `--json`."""
        return asdict(self)


class Ours:
    """flctl's rounds over an open engine."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self._rounds = Rounds(run, engine)
        self._state = self._rounds.initial()

    def play(self) -> float:
        """Plays the next round, and returns its seconds."""
        started = time.perf_counter()
        self._state, _ = self._rounds.play(self._state, last=lambda seconds: False)
        return time.perf_counter() - started

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D]."""
        return np.array(self._state.params["params"])

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Continues from the global model [D]."""
        self._state = replace(self._state, params={**self._state.params, "params": model})


def contest(workload: Workload, registry: Catalogue, *, rounds: int | None, workers: int) -> BenchmarkResult:
    """Plays a workload: `rounds` repeats, or as many as fit in a few seconds. With several workers flctl's own choice
    is also timed in a pool of that size. Raises FlctlError if models differ."""
    single_thread()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flctl-bench-")))
        partition = make_partition(workload, folder / "parts")
        run = _run(partition, workload, registry)
        able = obstacles(run, run.build_model(), run.task())
        ways = [(name, 1) for name, reason in able.items() if reason is None]
        ways += [(run.execution.executor, workers)] if workers > 1 else []
        contenders: dict[Any, Contender] = {FLOOR: HandWrittenLoop(run, workload)}
        for name, count in ways:
            options = (f"engine.executor={name}", f"engine.workers={count}")
            contenders[name, count] = stack.enter_context(_opened(_run(partition, workload, registry, *options)))
        times, agreed = paired(contenders, rounds, run.build_model().read()["params"])
    chosen = run.execution.executor
    rows = [_row(times, way, chosen) for way in ways]
    rows += [Row(name, 1, chosen=False, reason=reason) for name, reason in able.items() if reason is not None]
    return BenchmarkResult(
        workload.name, workload.title, len(times[FLOOR]), Repeats.of(times[FLOOR]), tuple(rows), agreed
    )


def _run(partition: Partition, workload: Workload, registry: Catalogue, *settings: str) -> Run:
    named = [f"data={partition.path.as_posix()}", *workload.settings(), *settings]
    config = load(registry, overrides=named).config
    return Run.build(config, registry, partition, partition.path / "memory")


@contextmanager
def _opened(run: Run) -> Iterator[Ours]:
    engine = engine_class(run).from_options(dict(run.config.engine.options))
    with engine.open(run):
        yield Ours(run, engine)


def _row(times: Mapping[Any, Sequence[float]], way: tuple[str, int], chosen: str) -> Row:
    ratios = [floor / ours for floor, ours in zip(times[FLOOR], times[way], strict=True)]
    executor, workers = way
    return Row(executor, workers, executor == chosen, Repeats.of(times[way]), Repeats.of(ratios))


def paired(
    contenders: Mapping[Any, Contender], rounds: int | None, start: npt.NDArray[np.float32]
) -> tuple[dict[Any, list[float]], Agreement]:
    """Returns the seconds of each contender's round in each repeat, after one warm-up round, and their agreement.

    Contenders take turns, and the first one rotates. After each repeat models are compared, and all continue from the
    first contender's: a ReLU that rounding tips the other way affects its repeat alone. All start at `start` [D].
    """
    names, began = list(contenders), time.perf_counter()
    times: dict[Any, list[float]] = {name: [] for name in names}
    found: list[dict[Any, float]] = []
    for repeat in range(1 + (rounds or MOST)):
        if rounds is None and repeat > FEWEST and time.perf_counter() - began > BUDGET:
            break
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(contenders[name].play())
        model = contenders[names[0]].params()
        moved = float(np.abs(model - start).max())
        found.append({name: _distance(contenders[name], model, moved) for name in names[1:]})
        start = model
        for contender in contenders.values():
            contender.restart(model)
    return {name: seconds[1:] for name, seconds in times.items()}, agreement(found)


def _distance(contender: Contender, model: npt.NDArray[np.float32], moved: float) -> float:
    return float(np.abs(contender.params() - model.astype(np.float64)).max()) / moved if moved else np.nan


def agreement(found: Sequence[Mapping[Any, float]]) -> Agreement:
    """Returns the agreement of contenders from their distances in each repeat. Raises FlctlError beyond the
    tolerance."""
    middle = {name: statistics.median_low([repeat[name] for repeat in found]) for name in found[0]}
    worst = {name: max(repeat[name] for repeat in found) for name in found[0]}
    for name in found[0]:
        # Written so that NaN fails.
        if not (middle[name] <= TOLERANCE and all(repeat[name] <= BOUND for repeat in found)):
            executor, workers = name
            raise FlctlError(
                f"{executor} ({counted(workers, 'worker')}) does not match the hand-written loop: the parameters "
                f"differ by {middle[name]:.2g} of the largest change of a parameter in the middle repeat (tolerated "
                f"{TOLERANCE:g}), by {worst[name]:.2g} in the worst ({BOUND:g})",
                hint="This is a bug in flctl, or a hardware fault.",
            )
    return Agreement(max(middle.values(), default=0.0), max(worst.values(), default=0.0))

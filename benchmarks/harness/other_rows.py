"""The rows whose figure is not a speed-up over the floor: aggregation, a large federation, and whole commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contest import Session
from harness.flctl_rounds import opened
from harness.measurement import Repeats, ratios
from harness.processes import environment, module_command
from harness.results import Result, Target
from harness.train_command import Timed, imports_torch, train_command, watched
from harness.workloads import W2

__all__ = ["OTHER_ROWS", "OtherRow"]

REPEATS = 5


@dataclass(frozen=True, slots=True)
class OtherRow:
    """Rows that are measured together: their names, and what measures them."""

    names: tuple[str, ...]
    function: Callable[[Session, str | None], Sequence[Result]]

    def measure(self, session: Session, executor: str | None = None) -> Sequence[Result]:
        """Measures them, in the session's form."""
        return self.function(session, executor)


def _script(name: str, *arguments: str) -> dict[str, Any]:
    """JSON object that a module of this package prints, run in its own process. Raises RuntimeError if it fails."""
    command = module_command(name, *arguments)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise RuntimeError(f"{name} ended with code {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def aggregation(session: Session, executor: str | None) -> list[Result]:
    """W4: time against torch on one thread, as the server has; and memory."""
    size = ["--updates", "7", "--length", "10000", "--repeats", "2"] if session.quick else []
    found = _script("aggregation", *size)
    times, vectors = found["times"], found["extra_vectors"]["flctl"]
    title = "weighted mean of 100 updates x 10M float32"
    seconds = {name: Repeats.of(values) for name, values in times.items()}
    threads = ratios(times, "flctl", "torch, two threads")
    details = {**found, "over_two_threads": threads}
    time = ratios(times, "flctl", "torch")
    target = Target(1.1, smaller=True)
    memory = Target(1.1, smaller=True, unit=" vectors")
    return [
        Result("w4", title, "of torch's time", target, time, seconds, details=details),
        Result("w4-memory", f"{title}: memory beyond the updates", "in all", memory, Repeats.of([vectors])),
    ]


def million(session: Session, executor: str | None) -> list[Result]:
    """Seconds a round and memory with 1,000,000 clients in the store."""
    size = ["--clients", "2000", "--cohort", "50", "--rounds", "2", "--workers", "1"] if session.quick else []
    found = _script("large_federation", *size, *(["--executor", executor] if executor else []))
    title = "1,000,000 clients x 20 in the store, 10,000 a round, softmax 60 -> 10"
    spread, memory = Repeats.of(found["times"]), Repeats.of([sum(found["peak_mib"]) / 1024])
    seconds = {"flctl": spread, "flctl, first round": Repeats.of([found["first_seconds"]])}
    time_target, memory_target = Target(1.5, smaller=True, unit=" s"), Target(2.0, smaller=True, unit=" GiB")
    shown = f"{title}: resident in all processes, each at its peak, mapped pages counted in each"
    return [
        Result("million", title, "a round", time_target, spread, seconds, found["executor"], found),
        Result("million-memory", shown, "at most", memory_target, memory),
    ]


def first_round(session: Session, executor: str | None) -> list[Result]:
    """From the command to the first round's line in metrics.jsonl, on a warm disk."""
    workload = W2.tiny() if session.quick else W2
    partition = session.partition(workload).path
    workers = (1,) if session.quick else (2, 1)
    pinned = [f"engine.executor={executor}"] if executor else []
    times: dict[int, list[Timed]] = {count: [] for count in workers}
    for repeat in range(1 if session.quick else 1 + REPEATS):
        for count in workers:
            run = session.folder / f"first-{count}-{repeat}"
            command = train_command(partition, run, [*workload.settings(), *pinned], count, rounds=1)
            times[count].append(watched(command, run, rounds=1))
    # The first repeat warms the disk's cache.
    warm = {count: list(made if session.quick else made[1:]) for count, made in times.items()}
    torch = [imports_torch() for _ in range(1 if session.quick else REPEATS)]
    shown = Repeats.of([timed.first for timed in warm[workers[0]]])
    seconds = {f"--workers {count}": Repeats.of([timed.first for timed in made]) for count, made in warm.items()}
    seconds |= {"the whole command": Repeats.of([timed.end for timed in warm[workers[0]]])}
    seconds |= {"python -c 'import torch'": Repeats.of(torch)}
    title = "W2, `flctl train --workers 2`: from the command to its first round done, evaluation included"
    return [Result("first-round", title, "", Target(6, 4, smaller=True, unit=" s"), shown, seconds)]


def whole_run(session: Session, executor: str | None) -> list[Result]:
    """A whole run with everything that is on by default, but evaluation every 10 rounds, against 100 rounds alone."""
    workload, rounds = (W2.tiny(), 3) if session.quick else (W2, 100)
    repeats, workers = (1, 1) if session.quick else (3, 2)
    pinned = [f"engine.executor={executor}"] if executor else []
    settings = [*workload.settings(), f"eval.every={rounds // 10 or 1}", *pinned]
    made: list[Timed] = []
    alone: list[float] = []
    with opened(session.run(workload, (), workers, executor)) as ours:
        ours.play(1)
        for repeat in range(repeats):
            alone.append(ours.play(rounds))
            run = session.folder / f"whole-{repeat}"
            command = train_command(session.partition(workload).path, run, settings, workers, rounds)
            made.append(watched(command, run, rounds))
    pairs = list(zip(made, alone, strict=True))
    shown = Repeats.of([(timed.end - timed.start_up) / base for timed, base in pairs])
    details = {
        "with_start_up": Repeats.of([timed.end / base for timed, base in pairs]),
        "to_the_last_round": Repeats.of([(timed.last - timed.start_up) / base for timed, base in pairs]),
        "of_its_own_rounds": Repeats.of([(timed.end - timed.start_up) / timed.rounds for timed in made]),
    }
    title = f"`flctl train` of {rounds} W2 rounds with evaluations, checkpoints and metrics, without start-up"
    target = Target(1.25, smaller=True)
    return [Result("whole", title, "of the rounds alone", target, shown, _parts(made, alone), details=details)]


def _parts(made: Sequence[Timed], alone: Sequence[float]) -> dict[str, Repeats]:
    """Seconds of the rounds alone, and of the commands' stretches."""
    return {
        "rounds alone": Repeats.of(alone),
        "start-up": Repeats.of([timed.start_up for timed in made]),
        "first round to last": Repeats.of([timed.last - timed.start_up for timed in made]),
        "its rounds without evaluation": Repeats.of([timed.rounds for timed in made]),
        "after the last round": Repeats.of([timed.end - timed.last for timed in made]),
        "whole command": Repeats.of([timed.end for timed in made]),
    }


OTHER_ROWS = (
    OtherRow(("w4", "w4-memory"), aggregation),
    OtherRow(("million", "million-memory"), million),
    OtherRow(("first-round",), first_round),
    OtherRow(("whole",), whole_run),
)

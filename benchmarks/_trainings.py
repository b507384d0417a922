"""Many trainings, each in a process of one thread: what they need, and the metrics they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Job", "bands", "flctl", "trained"]

FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]


@dataclass(frozen=True, slots=True)
class Job:
    """One training: who it is for, its seed, the partition, where the run goes, and its `KEY=VALUE` settings."""

    name: str
    seed: int
    partition: Path
    run: Path
    settings: tuple[str, ...]


def flctl(*words: str) -> None:
    """Runs a command of flctl, silently. Raises CalledProcessError where it fails."""
    subprocess.run([*FLCTL, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trained(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    """Each job with the lines of its metrics.jsonl, in order; up to the round in which it diverged, if it did."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, (job, lines) in enumerate(zip(jobs, pool.map(_train, jobs, chunksize=1), strict=True), 1):
            print(f"{number}/{len(jobs)} {job.name}, seed {job.seed}: {len(lines)} rounds", file=sys.stderr, flush=True)
            yield job, lines


def _train(job: Job) -> list[dict[str, Any]]:
    from flctl.config import load
    from flctl.errors import DivergenceError
    from flctl.partition.store import Partition
    from flctl.registry import Registry
    from flctl.run import Run
    from flctl.rundir import RunDirectory
    from flctl.training import train

    registry, partition = Registry(), Partition.open(job.partition)
    overrides = [f"data={job.partition.as_posix()}", f"seed={job.seed}", "engine=inprocess", *job.settings]
    loaded = load(registry, overrides=overrides)
    directory = RunDirectory.create(job.run, loaded, partition)
    try:
        train(Run.build(loaded.config, registry, partition, directory.memory), directory)
    except DivergenceError as error:
        print(f"{job.name}, seed {job.seed}: {error.message}", file=sys.stderr)
    return [json.loads(text) for text in (job.run / "metrics.jsonl").read_text().splitlines()]


def bands(axes: Any, x: Sequence[float], runs: Sequence[Sequence[float]], color: str, label: str) -> None:
    """A line through the means of the runs, and a band from the least to the most of them."""
    values = np.array(runs)
    axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    axes.plot(x, values.mean(0), color=color, linewidth=1.6, label=label)

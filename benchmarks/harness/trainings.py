"""Benchmarks that train many times: what they are asked, the trainings side by side, and pictures of their curves."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from harness.measurement import machine
from harness.results import command

__all__ = ["Job", "Panel", "data_folder", "draw", "facts", "flctl", "measured", "parser", "source_of", "trained"]

FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]


@dataclass(frozen=True, slots=True)
class Job:
    """One training: who it is for, its seed, the partition, where the run goes, and its `KEY=VALUE` settings, which
    change what a config file says."""

    name: str
    seed: int
    partition: Path
    run: Path
    settings: tuple[str, ...]
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of a picture: label -> runs, each a curve over `x`."""

    title: str
    y: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[Sequence[float]]]
    logarithmic: bool = False


def parser(doc: str | None, quick: str, rounds: int, seeds: Sequence[int] = (1, 2, 3)) -> argparse.ArgumentParser:
    """The options that they all have: `quick` says what is played then."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--quick", action="store_true", help=f"{quick}; nothing is written")
    made.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    return made


def data_folder() -> Path | None:
    """The folder of real data sets; without one, None, and it is said that nothing is measured."""
    named = os.environ.get("FLCTL_TEST_DATA")
    if not named:
        print("skipped: FLCTL_TEST_DATA does not name the folder of real data sets", file=sys.stderr)
    return Path(named) if named else None


def source_of(name: str, *, quick: bool) -> str | None:
    """The data set `name`, or scikit-learn's digits in the quick form; None, and it is said, where it is not there."""
    if quick:
        return "digits"
    folder = data_folder()
    return str(folder / name) if folder else None


def facts(asked: argparse.Namespace, started: float) -> dict[str, Any]:
    """What a result begins with; `started` by `time.monotonic`."""
    return {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": round(time.monotonic() - started),
        "seeds": asked.seeds,
    }


def measured(known: Mapping[str, Any]) -> str:
    """The line of a page that tells the `facts`."""
    return f"Measured by `{known['command']}` on {known['machine']}, {known['date']}, in {known['seconds']} s."


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
    from flctl.config.load import load
    from flctl.errors import DivergenceError
    from flctl.partition.store import Partition
    from flctl.plugins.registry import Registry
    from flctl.run.directory import RunDirectory
    from flctl.run.run import Run
    from flctl.server.training import train

    registry, partition = Registry(), Partition.open(job.partition)
    overrides = [f"data={job.partition.as_posix()}", f"seed={job.seed}", "engine=inprocess", *job.settings]
    loaded = load(registry, file=job.config, overrides=overrides)
    directory = RunDirectory.create(job.run, loaded, partition)
    try:
        train(Run.build(loaded.config, registry, partition, directory.memory), directory)
    except DivergenceError as error:
        print(f"{job.name}, seed {job.seed}: {error.message}", file=sys.stderr)
    return [json.loads(text) for text in (job.run / "metrics.jsonl").read_text().splitlines()]


def draw(panels: Sequence[Panel], path: Path, x: str = "round") -> None:
    """Panels side by side: lines through the means of the runs, and bands from the least to the most of them."""
    from flctl.report.figure import PALETTE, legend, new_figure, save, style

    figure = new_figure(11.5, 4.8)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(places, panels, strict=True):
        for color, (label, runs) in zip(PALETTE, panel.curves.items(), strict=False):
            values = np.array(runs)
            axes.fill_between(panel.x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
            axes.plot(panel.x, values.mean(0), color=color, linewidth=1.6, label=label)
        style(axes, x=x, y=panel.y, title=panel.title)
        axes.set_xlim(left=min(panel.x))
        if panel.logarithmic:
            axes.set_yscale("log")
    legend(figure, places[0])
    path.unlink(missing_ok=True)
    save(figure, path)

"""Accuracy against epsilon: MNIST, 2NN, 1,000 clients, with each central mechanism of flctl-dp.

    python benchmarks/dp_frontier.py [--quick] [--seeds 1 2 3] [--rounds 100] [--workers 2]

Needs FLCTL_TEST_DATA, the folder of real data sets, and the plugin flctl-dp. Each training finds its own noise for a
target epsilon and has a ledger of its own, as if it were the only one: settings were chosen by runs of seed 1, and what
that says of the clients is in no epsilon. Beside them stands a run without noise or clipping. Writes
benchmarks/results/dp_frontier.json, .csv, .md and .png; `--quick` plays two rounds on scikit-learn's digits, writes
nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from harness.results import RESULTS, write
from harness.trainings import Job, Panel, draw, facts, flctl, measured, parser, source_of, trained

EPSILONS, DELTA = (2.0, 4.0, 8.0), 1e-4
CLIENTS, COHORT = 1000, 100
COMMON = (
    "model=2nn",
    "local.epochs=1",
    "local.batch_size=10",
    "local.lr=0.1",
    "eval.every=0",
    "checkpoint.every=0",
    "checkpoint.seconds=0",
)
POISSON = ("cohort.sampling=poisson", f"cohort.rate={COHORT / CLIENTS}")
MECHANISMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fixed clipping": ("dp", (*POISSON, "transforms.dp.clipping_norm=0.3")),
    "adaptive clipping": ("dp-adaptive", (*POISSON, "transforms.dp-adaptive.clipping_norm=0.1", "server.lr=0.5")),
    "DP-FTRL": (
        "dp-ftrl",
        ("cohort.sampling=cyclic", f"cohort.clients={COHORT}", "transforms.dp-ftrl.clipping_norm=0.3"),
    ),
}
OPEN = "no privacy"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints, writes."""
    asked = _parse(arguments)
    source = source_of("mnist", quick=asked.quick)
    if source is None:
        return 0
    started, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for job, lines in trained(list(jobs(asked, source, Path(folder))), asked.workers):
            rows.append(row(job, lines, asked.rounds))
            print(_text(rows[-1]), flush=True)
    if not asked.quick:
        record(asked, rows, facts(asked, started))
    return 0


def jobs(asked: argparse.Namespace, source: str, folder: Path) -> Iterator[Job]:
    """Every mechanism at every epsilon with every seed, and a run without any for each seed."""
    split = ("--test-fraction", "0.2" if source == "digits" else "0")
    for seed in asked.seeds:
        parts = folder / f"parts-{seed}"
        clients = str(CLIENTS)
        flctl("partition", source, *split, "--clients", clients, "--seed", str(seed), "--out", str(parts))
        common = (f"rounds={asked.rounds}", *COMMON)
        yield Job(OPEN, seed, parts, folder / f"run-open-{seed}", (*common, *POISSON))
        for epsilon in EPSILONS:
            for name, (transform, settings) in MECHANISMS.items():
                run = folder / f"run-{transform}-{epsilon:g}-{seed}"
                own = {
                    "target_epsilon": epsilon,
                    "target_delta": DELTA,
                    "ledger": run.with_suffix(".jsonl").as_posix(),
                }
                told = [f"transforms.{transform}.{key}={value}" for key, value in own.items()]
                yield Job(
                    f"{name}, {epsilon:g}", seed, parts, run, (*common, f"transforms=[{transform}]", *told, *settings)
                )


def row(job: Job, lines: Sequence[Mapping[str, Any]], rounds: int) -> Row:
    """What came of a training; accuracy 0 where it diverged."""
    name, _, target = job.name.partition(", ")
    known = {"mechanism": name, "target": float(target) if target else None, "seed": job.seed}
    if len(lines) < rounds:
        return {**known, "accuracy": 0.0, "epsilon": None, "noise": None, "clip": None}
    said: Mapping[str, Any] = next(iter(lines[-1]["transforms"].values()), {})
    return {
        **known,
        "accuracy": lines[-1]["accuracy"],
        "epsilon": said.get("epsilon"),
        "noise": said.get("noise_multiplier"),
        "clip": said.get("clip"),
    }


def _text(found: Row) -> str:
    at = f" at epsilon {found['target']:g}" if found["target"] else ""
    return f"{found['mechanism']}{at}, seed {found['seed']}: accuracy {found['accuracy']:.4f}"


def record(asked: argparse.Namespace, rows: Sequence[Row], known: Mapping[str, Any]) -> None:
    """Writes the four files."""
    settings = {"common": COMMON, "mechanisms": MECHANISMS, "delta": DELTA}
    made = {**known, "rounds": asked.rounds, "settings": settings, "trainings": list(rows)}
    write(made, "\n".join(_page(made)) + "\n", "dp_frontier")
    with (RESULTS / "dp_frontier.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    curves = {
        name: [[_accuracy(rows, name, epsilon, seed) for epsilon in EPSILONS] for seed in asked.seeds]
        for name in MECHANISMS
    }
    curves[OPEN] = [[_accuracy(rows, OPEN, None, seed)] * len(EPSILONS) for seed in asked.seeds]
    title = f"MNIST, 2NN, {CLIENTS:,} clients, {asked.rounds} rounds of {COHORT}, delta {DELTA:g}"
    draw([Panel(title, "test accuracy", EPSILONS, curves)], RESULTS / "dp_frontier.png", x="epsilon")


def _accuracy(rows: Sequence[Row], mechanism: str, target: float | None, seed: int) -> float:
    return next(
        float(row["accuracy"])
        for row in rows
        if (row["mechanism"], row["target"], row["seed"]) == (mechanism, target, seed)
    )


def _page(made: Mapping[str, Any]) -> Iterator[str]:
    yield "# What privacy costs in accuracy"
    yield ""
    yield measured(made)
    yield ""
    yield (
        f"MNIST, 2NN, {CLIENTS:,} clients of 60 rows, {made['rounds']} rounds of {COHORT} clients (expected, by "
        f"Poisson sampling; DP-FTRL takes them in turn), one epoch (B=10, lr 0.1). Client level, delta {DELTA:g}. "
        "Settings are in dp_frontier.json; they were chosen by runs of seed 1, outside of any budget. Accuracy "
        f"after the last round for each of the seeds {', '.join(map(str, made['seeds']))}."
    )
    yield "\n| mechanism | epsilon | accuracy | mean | noise multiplier |\n|---|---:|---:|---:|---:|"
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for one in made["trainings"]:
        groups.setdefault((one["mechanism"], one["target"]), []).append(one)
    for (name, target), found in groups.items():
        accuracy = [one["accuracy"] for one in found]
        cells = " · ".join(f"{value:.4f}" for value in accuracy)
        noise = "-" if found[0]["noise"] is None else f"{found[0]['noise']:.3g}"
        yield f"| {name} | {'-' if target is None else f'{target:g}'} | {cells} | {mean(accuracy):.4f} | {noise} |"
    yield "\n![Accuracy against epsilon](dp_frontier.png)"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    asked = parser(__doc__, "two rounds on digits", rounds=100).parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.rounds = [1], 2
    return asked


if __name__ == "__main__":
    sys.exit(main())

"""Strategies beside FedAvg where each client sees few of the classes: MNIST, Dirichlet 0.1 and two classes a client.

    python benchmarks/label_skew.py [--quick] [--seeds 1 2 3] [--rounds 60] [--workers 2]

Needs FLCTL_TEST_DATA, the folder of real data sets. Each seed draws its own partition, initial model and cohorts;
within a seed the strategies ask the same clients. They differ in what VARIANTS says and in nothing else. Writes
benchmarks/results/label_skew.json, .md and .png; `--quick` plays two rounds on scikit-learn's digits, writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness.results import RESULTS, write
from harness.trainings import Job, Panel, draw, facts, flctl, measured, parser, source_of, trained

SKEWS = {
    "Dirichlet 0.1": ("--scheme", "dirichlet", "--alpha", "0.1"),
    "two classes a client": ("--scheme", "pathological", "--classes-per-client", "2"),
}
COMMON = (
    "model={name: mlp, hidden: [100]}",
    "cohort.clients=10",
    "local.epochs=5",
    "local.batch_size=50",
    "local.lr=0.05",
    "eval.every=1",
    "checkpoint.every=0",
    "checkpoint.seconds=0",
)
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "fedavg": ("strategy=fedavg",),
    "fedprox": ("strategy=fedprox", "strategy.proximal_mu=0.1"),
    "fednova": ("strategy=fednova",),
    "scaffold": ("strategy=scaffold",),
    "fedavgm": ("strategy=fedavgm", "server.momentum=0.9", "server.lr=0.3"),
    "fedadam": ("strategy=fedadam", "server.lr=0.01"),
}
TARGET = 0.9
LAST = 10
"""Final accuracies are means over so many last rounds."""
Curves = dict[str, dict[str, list[list[float]]]]
"""Skew -> strategy -> accuracy by round, one curve a seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints, writes."""
    asked = _parse(arguments)
    source = source_of("mnist", quick=asked.quick)
    if source is None:
        return 0
    started = time.monotonic()
    found: Curves = {skew: {name: [] for name in VARIANTS} for skew in SKEWS}
    with tempfile.TemporaryDirectory() as folder:
        todo = list(jobs(asked, source, Path(folder)))
        for job, lines in trained(todo, asked.workers):
            skew, name = job.name.split(", ")
            curve = [line["accuracy"] for line in lines]
            found[skew][name].append(curve + [0.0] * (asked.rounds - len(curve)))  # 0: of a model that diverged
    table = {skew: {name: figures(curves) for name, curves in rows.items()} for skew, rows in found.items()}
    for skew, rows in table.items():
        print("\n".join([skew, *(f"  {name:10}{_cells(row)}" for name, row in rows.items())]))
    if not asked.quick:
        record(asked, found, table, facts(asked, started))
    return 0


def jobs(asked: argparse.Namespace, source: str, folder: Path) -> Iterator[Job]:
    """Every strategy on every skew with every seed."""
    for seed in asked.seeds:
        for number, (skew, scheme) in enumerate(SKEWS.items()):
            parts = folder / f"parts-{number}-{seed}"
            split = ("--test-fraction", "0.2") if source == "digits" else ("--test-fraction", "0")
            clients = str(20 if asked.quick else 100)
            flctl("partition", source, *scheme, *split, "--clients", clients, "--seed", str(seed), "--out", str(parts))
            for name, settings in VARIANTS.items():
                own = (f"rounds={asked.rounds}", *COMMON, *settings)
                yield Job(f"{skew}, {name}", seed, parts, folder / f"run-{number}-{seed}-{name}", own)


def figures(curves: Sequence[Sequence[float]]) -> dict[str, list[Any]]:
    """Of each seed: the first round at the target, the final accuracy, and how much it moves from round to round."""
    first = [next((n for n, value in enumerate(curve, 1) if value >= TARGET), None) for curve in curves]
    final = [float(np.mean(curve[-LAST:])) for curve in curves]
    return {"reached": first, "final": final, "spread": [float(np.std(curve[-LAST:])) for curve in curves]}


def _cells(row: Mapping[str, Sequence[Any]]) -> str:
    reached = " · ".join("-" if value is None else str(value) for value in row["reached"])
    final = " · ".join(f"{value:.4f}" for value in row["final"])
    return f"{TARGET:.0%} in round {reached}; final {final}; +- {np.mean(row['spread']):.4f} from round to round"


def record(asked: argparse.Namespace, found: Curves, table: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Writes the three files."""
    made = {
        **known,
        "settings": {"skews": SKEWS, "common": COMMON, "strategies": VARIANTS},
        "figures": table,
        "curves": {s: {n: np.round(c, 4).tolist() for n, c in rows.items()} for s, rows in found.items()},
    }
    write(made, "\n".join(_page(asked, known, table)) + "\n", "label_skew")
    panels = [Panel(f"MNIST, {s}", "test accuracy", range(1, asked.rounds + 1), rows) for s, rows in found.items()]
    draw(panels, RESULTS / "label_skew.png")


def _page(asked: argparse.Namespace, known: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    yield "# Strategies under label skew"
    yield ""
    yield measured(known)
    yield ""
    yield (
        f"MNIST, 100 clients, 10 a round, {asked.rounds} rounds of 5 epochs (B=50, lr 0.05), one hidden layer of 100. "
        f"A figure for each of the seeds {', '.join(map(str, asked.seeds))}. Final accuracy is the mean of the last "
        f"{LAST} rounds, its movement their standard deviation. Settings that differ are in label_skew.json and in the "
        "script; none was tuned."
    )
    for skew, rows in table.items():
        yield f"\n## {skew}\n"
        yield f"| strategy | rounds to {TARGET:.0%} | final accuracy | mean | moves by |\n|---|---:|---:|---:|---:|"
        for name, row in rows.items():
            reached = " · ".join("-" if value is None else str(value) for value in row["reached"])
            final = " · ".join(f"{value:.4f}" for value in row["final"])
            yield f"| {name} | {reached} | {final} | {np.mean(row['final']):.4f} | {np.mean(row['spread']):.4f} |"
    yield "\n![Accuracy by round](label_skew.png)"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    asked = parser(__doc__, "two rounds on digits", rounds=60).parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.rounds = [1], 2
    return asked


if __name__ == "__main__":
    sys.exit(main())

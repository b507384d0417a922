"""Models of the clients' own beside the global one: WISDM, 36 people's activities from a phone's accelerometer.

    python benchmarks/personalised.py [--quick] [--seeds 1 2 3] [--rounds 100] [--workers 2]

Needs FLCTL_TEST_DATA, the folder of real data sets. Each person is a client, judged on rows of their own that nobody
trained on; a seed draws that split and all else. Beside the strategies stands a network that each person trained alone,
by as many steps. Writes benchmarks/results/personalised.json, .md and .png, and fails where ditto or fedper does not
beat fedavg's global model in the mean over people; `--quick` plays five rounds of one seed and writes nothing.
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
from harness.trainings import Job, Panel, data_folder, draw, facts, flctl, measured, parser, trained

COMMON = (
    "model={name: mlp, hidden: [64]}",
    "cohort.sampling=all",
    "local.epochs=2",
    "local.batch_size=20",
    "local.lr=0.05",
    "eval.every=5",
    "eval.per_client=true",
    "checkpoint.every=0",
    "checkpoint.seconds=0",
)
GLOBAL, OWN = "accuracy_mean", "personal_accuracy_mean"
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fedavg, the global model": (GLOBAL, ("strategy=fedavg",)),
    "fedper": (OWN, ("strategy=fedper",)),
    "fedrep": (OWN, ("strategy=fedrep",)),
    "ditto, lambda 0.1": (OWN, ("strategy=ditto", "strategy.ditto_lambda=0.1")),
    "alone (ditto, lambda 0)": (OWN, ("strategy=ditto", "strategy.ditto_lambda=0")),
}
"""Which metric is a variant's, and its settings. With lambda 0 a person's model never hears of the others but where it
begins."""
BEATEN, WINNERS = "fedavg, the global model", ("fedper", "ditto, lambda 0.1")
LAST = 4
"""Final figures are means over so many last evaluations."""
Curves = dict[str, list[dict[str, list[float]]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints, writes; 1 where the claim does not hold."""
    asked = _parse(arguments)
    data = data_folder()
    if not data:
        return 0
    started = time.monotonic()
    found: Curves = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for job, lines in trained(list(jobs(asked, data, Path(folder))), asked.workers):
            found[job.name].append(_curve(lines, VARIANTS[job.name][0]))
    table = {name: figures(curves) for name, curves in found.items()}
    for name, row in table.items():
        print(f"{name:26}" + "; ".join(f"{what} {' · '.join(f'{v:.4f}' for v in row[what])}" for what in row))
    if asked.quick:
        return 0
    held = {name: all(np.greater(table[name]["mean"], table[BEATEN]["mean"])) for name in WINNERS}
    record(asked, found, table, held, facts(asked, started))
    return 0 if all(held.values()) else 1


def jobs(asked: argparse.Namespace, data: Path, folder: Path) -> Iterator[Job]:
    """Every variant with every seed, on that seed's split."""
    source = str(data / "wisdm" / "WISDM_ar_v1.1_transformed.arff")
    reading = ("--target", "class", "--drop", "UNIQUE_ID", "--na", "?", "--by", "user", "--test-fraction", "0.2")
    for seed in asked.seeds:
        parts = folder / f"parts-{seed}"
        flctl("partition", source, *reading, "--seed", str(seed), "--out", str(parts))
        for number, (name, (_, settings)) in enumerate(VARIANTS.items()):
            own = (f"rounds={asked.rounds}", *COMMON, *settings)
            yield Job(name, seed, parts, folder / f"run-{seed}-{number}", own)


def _curve(lines: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
    """The rounds in which the clients were judged, their mean accuracy, and that of the tenth that fares worst."""
    judged = [line for line in lines if metric in line]
    worst = metric.replace("_mean", "_worst_decile")
    return {
        "round": [line["round"] for line in judged],
        "mean": [line[metric] for line in judged],
        "worst tenth": [line[worst] for line in judged],
    }


def figures(curves: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Final accuracies, a value for each seed."""
    return {what: [float(np.mean(curve[what][-LAST:])) for curve in curves] for what in ("mean", "worst tenth")}


def record(
    asked: argparse.Namespace,
    found: Curves,
    table: Mapping[str, Any],
    held: Mapping[str, bool],
    known: Mapping[str, Any],
) -> None:
    """Writes the three files."""
    made = {
        **known,
        "settings": {"common": COMMON, "variants": VARIANTS},
        "beats the global model": {name: bool(value) for name, value in held.items()},
        "figures": table,
        "curves": found,
    }
    write(made, "\n".join(_page(asked, made, table)) + "\n", "personalised")
    rounds = next(iter(found.values()))[0]["round"]
    panels = [
        Panel(
            f"WISDM, {what} over people",
            "accuracy on own rows",
            rounds,
            {name: [curve[what] for curve in curves] for name, curves in found.items()},
        )
        for what in ("mean", "worst tenth")
    ]
    draw(panels, RESULTS / "personalised.png")


def _page(asked: argparse.Namespace, made: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    yield "# Models of people's own"
    yield ""
    yield measured(made)
    yield ""
    yield (
        f"WISDM, 36 people, all asked in each of {asked.rounds} rounds of 2 epochs (B=20, lr 0.05), one hidden layer "
        "of 64. Accuracy on rows of each person that nobody trained on, its mean over people and over the tenth that "
        "fares worst; "
        f"a figure for each of the seeds {', '.join(map(str, asked.seeds))}, the mean of the last {LAST} evaluations."
    )
    yield "\n| whose model | mean over people | worst tenth |\n|---|---:|---:|"
    for name, row in table.items():
        yield f"| {name} | {' | '.join(' · '.join(f'{value:.4f}' for value in row[what]) for what in row)} |"
    yield ""
    for name, value in made["beats the global model"].items():
        yield f"- {name} beats {BEATEN} with each seed: {'yes' if value else '**no**'}"
    yield "\n![Accuracy by round](personalised.png)"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    asked = parser(__doc__, "five rounds of one seed", rounds=100).parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.rounds = [1], 5
    return asked


if __name__ == "__main__":
    sys.exit(main())

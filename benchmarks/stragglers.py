"""FedProx beside FedAvg with 90 % stragglers (Li et al. 2020, Figure 1), on LEAF's synthetic(1,1) federation.

    python benchmarks/stragglers.py [--quick] [--seeds 1 2 3]

Each seed draws its own 30 devices and its own run of sample_configs/stragglers.yaml; the variants differ in the
strategy alone, so that within a seed the same devices are asked and the same ones are late. Writes
benchmarks/results/stragglers.json, .md and .png; `--quick` plays three rounds of one seed and writes nothing.
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
from harness.trainings import Job, Panel, draw, facts, flctl, measured, parser, trained

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "sample_configs" / "stragglers.yaml"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "fedavg, stragglers dropped": ("strategy=fedavg",),
    "fedprox, mu 0": ("strategy.proximal_mu=0",),
    "fedprox, mu 1": (),
    "fednova": ("strategy=fednova",),
}
FEDAVG, FEDPROX = "fedavg, stragglers dropped", "fedprox, mu 1"
LAST, SETTLED = 20, 100
"""Final figures are means over so many last rounds; steadiness is that of the rounds after the settled one."""
STEADIER = 2.0
Curves = dict[str, list[dict[str, list[float]]]]
METRICS = {"test_loss": "test loss", "accuracy": "test accuracy"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every variant with every seed; the exit code is 1 where the claim does not hold."""
    asked = _parse(arguments)
    started = time.monotonic()
    found: Curves = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for job, lines in trained(list(jobs(asked, Path(folder))), asked.workers):
            found[job.name].append(_curve(lines))
            print(f"seed {job.seed}, {job.name}: {_ending(found[job.name][-1])}", flush=True)
    if asked.quick:
        return 0
    verdicts = judge(found)
    record(found, verdicts, facts(asked, started))
    for sentence, holds in verdicts.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {sentence}")
    return 0 if all(verdicts.values()) else 1


def jobs(asked: argparse.Namespace, folder: Path) -> Iterator[Job]:
    """Every variant with every seed, on that seed's devices."""
    for seed in asked.seeds:
        parts = folder / f"parts-{seed}"
        flctl("partition", "--config", str(CONFIG), "--seed", str(seed), "--out", str(parts))
        for number, (name, settings) in enumerate(VARIANTS.items()):
            own = (f"rounds={asked.rounds}", *settings)
            yield Job(name, seed, parts, folder / f"run-{seed}-{number}", own, CONFIG)


def _curve(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The metrics of one run, a value for each round."""
    used = [float(line["answered"]) for line in lines]
    return {"clients": used, **{name: [line[name] for line in lines] for name in METRICS}}


def _ending(curve: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{METRICS[name]} {final(curve[name]):.4f}" for name in METRICS)


def final(values: Sequence[float]) -> float:
    """The mean of the last rounds."""
    return float(np.mean(values[-LAST:]))


def jump(values: Sequence[float]) -> float:
    """The mean change from one round to the next, up or down, once the curve has settled."""
    return float(np.abs(np.diff(values[SETTLED:])).mean())


def judge(found: Curves) -> dict[str, bool]:
    """The claim in parts, each in every seed."""
    pairs = list(zip(found[FEDAVG], found[FEDPROX], strict=True))
    loss, accuracy = "test_loss", "accuracy"
    return {
        "fedprox ends with a lower test loss than fedavg": all(final(b[loss]) < final(a[loss]) for a, b in pairs),
        "fedprox ends with a higher accuracy than fedavg": all(
            final(b[accuracy]) > final(a[accuracy]) for a, b in pairs
        ),
        f"fedprox's test loss changes by at most 1/{STEADIER:g} of fedavg's from round to round": all(
            STEADIER * jump(b[loss]) <= jump(a[loss]) for a, b in pairs
        ),
    }


def figures(curves: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """What the tables have of a variant, a value for each seed."""
    return {
        "clients": [float(np.mean(curve["clients"])) for curve in curves],
        **{name: [final(curve[name]) for curve in curves] for name in METRICS},
        **{f"{name}_jump": [jump(curve[name]) for curve in curves] for name in METRICS},
    }


def record(found: Curves, verdicts: Mapping[str, bool], known: Mapping[str, Any]) -> None:
    """Writes the three files."""
    table = {name: figures(curves) for name, curves in found.items()}
    made = {
        **known,
        "config": CONFIG.relative_to(ROOT).as_posix(),
        "claims": dict(verdicts),
        "figures": {name: _rounded(row) for name, row in table.items()},
        "curves": {name: [_rounded(curve) for curve in curves] for name, curves in found.items()},
    }
    write(made, "\n".join(_text(made, table)) + "\n", "stragglers")
    panels = [_panel(found, metric, label) for metric, label in METRICS.items()]
    draw(panels, RESULTS / "stragglers.png")


def _panel(found: Curves, metric: str, label: str) -> Panel:
    curves = {name: [curve[metric] for curve in runs] for name, runs in found.items()}
    rounds = range(1, len(next(iter(curves.values()))[0]) + 1)
    return Panel(f"{label.capitalize()}, 90 % stragglers", label, rounds, curves, logarithmic=metric == "test_loss")


def _rounded(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 5) for value in values] for name, values in row.items()}


def _text(made: Mapping[str, Any], table: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    heads = [
        "clients that count a round",
        "test loss",
        "accuracy",
        "test loss: change a round",
        "accuracy: change a round",
    ]
    rows = [
        f"| {name} | " + " | ".join(" · ".join(f"{value:.4g}" for value in row[key]) for key in row) + " |"
        for name, row in table.items()
    ]
    return [
        "# 90 % stragglers on synthetic(1,1)",
        "",
        measured(made),
        "",
        f"One figure for each of the seeds {', '.join(map(str, made['seeds']))}, which draw their own 30 devices. "
        f"All play {made['config']}. Loss and accuracy are means over the last {LAST} rounds, changes the mean of "
        f"|this round - the last| after round {SETTLED}.",
        "",
        f"| variant | {' | '.join(heads)} |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        *[
            f"- {sentence}, with each seed: {'yes' if holds else '**no**'}"
            for sentence, holds in made["claims"].items()
        ],
        "",
        "![Test loss and accuracy by round](stragglers.png)",
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    asked = parser(__doc__, "three rounds of one seed", rounds=200).parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.rounds = asked.seeds[:1], 3
    return asked


if __name__ == "__main__":
    sys.exit(main())

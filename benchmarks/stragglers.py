"""FedProx beside FedAvg with 90 % stragglers (Li et al. 2020, Figure 1), on LEAF's synthetic(1,1) federation.

    python benchmarks/stragglers.py [--quick] [--seeds 1 2 3]

Each seed draws its own 30 devices and its own run of sample_configs/stragglers.yaml; the variants differ in the
strategy alone, so that within a seed the same devices are asked and the same ones are late. Writes
benchmarks/results/stragglers.json, .md and .png; `--quick` plays three rounds of one seed and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CONFIG = ROOT / "sample_configs" / "stragglers.yaml"
FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "fedavg, stragglers dropped": ("--strategy", "fedavg"),
    "fedprox, mu 0": ("-o", "strategy.proximal_mu=0"),
    "fedprox, mu 1": (),
    "fednova": ("--strategy", "fednova"),
}
FEDAVG, FEDPROX = "fedavg, stragglers dropped", "fedprox, mu 1"
LAST, SETTLED = 20, 100
"""Final figures are means over so many last rounds; steadiness is that of the rounds after the settled one."""
STEADIER = 2.0
Curves = dict[str, list[dict[str, list[float]]]]
METRICS = {"test_loss": "test loss", "accuracy": "test accuracy"}


def main() -> int:
    """Runs every variant with every seed; the exit code is 1 where the claim does not hold."""
    options = _parse()
    seeds, rounds = (options.seeds[:1], 3) if options.quick else (options.seeds, 200)
    found = measure(seeds, rounds)
    if options.quick:
        return 0
    verdicts = judge(found)
    record(found, seeds, verdicts)
    for sentence, holds in verdicts.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {sentence}")
    return 0 if all(verdicts.values()) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds of one seed; nothing is written")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    return parser.parse_args()


def measure(seeds: Sequence[int], rounds: int) -> Curves:
    """Every variant's curve for every seed; as many runs at a time as there are cores."""
    found: Curves = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = {seed: Path(folder) / f"parts-{seed}" for seed in seeds}
        for seed, path in parts.items():
            _flctl("partition", "--config", str(CONFIG), "--seed", str(seed), "--out", str(path))
        asked = [(name, seed) for seed in seeds for name in VARIANTS]
        curves = pool.map(lambda one: _curve(parts[one[1]], one[1], rounds, VARIANTS[one[0]]), asked)
        for (name, seed), curve in zip(asked, curves, strict=True):
            found[name].append(curve)
            print(f"seed {seed}, {name}: {_ending(curve)}", flush=True)
    return found


def _flctl(*arguments: str) -> None:
    subprocess.run([*FLCTL, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _curve(parts: Path, seed: int, rounds: int, flags: Sequence[str]) -> dict[str, list[float]]:
    """The metrics of one run, a value for each round."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        common = ("--config", str(CONFIG), "--seed", str(seed), "--rounds", str(rounds), "--out", str(run))
        _flctl("train", str(parts), *common, *flags)
        lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
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


def record(found: Curves, seeds: Sequence[int], verdicts: Mapping[str, bool]) -> None:
    """Writes the three files."""
    table = {name: figures(curves) for name, curves in found.items()}
    facts = {
        "command": f"python benchmarks/stragglers.py --seeds {' '.join(map(str, seeds))}",
        "config": CONFIG.relative_to(ROOT).as_posix(),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {version('torch')}",
        "seeds": list(seeds),
        "claims": dict(verdicts),
        "figures": {name: _rounded(row) for name, row in table.items()},
        "curves": {name: [_rounded(curve) for curve in curves] for name, curves in found.items()},
    }
    (RESULTS / "stragglers.json").write_text(json.dumps(facts) + "\n")
    (RESULTS / "stragglers.md").write_text("\n".join(_text(facts, table)) + "\n")
    _draw(found, RESULTS / "stragglers.png")


def _rounded(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 5) for value in values] for name, values in row.items()}


def _text(facts: Mapping[str, Any], table: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
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
        f"Measured by `{facts['command']}` ({facts['config']}) on {facts['machine']}.",
        "",
        f"One figure for each of the seeds {', '.join(map(str, facts['seeds']))}, which draw their own 30 devices. "
        f"Loss and accuracy are means over the last {LAST} of 200 rounds, changes the mean of |this round - the last| "
        f"after round {SETTLED}.",
        "",
        f"| variant | {' | '.join(heads)} |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        *[
            f"- {sentence}, with each seed: {'yes' if holds else '**no**'}"
            for sentence, holds in facts["claims"].items()
        ],
        "",
        "![Test loss and accuracy by round](stragglers.png)",
    ]


def _draw(found: Curves, path: Path) -> None:
    """Lines are means over the seeds, bands go from the least to the most of them."""
    from flctl.report.figure import PALETTE, legend, new_figure, save, style

    figure = new_figure(11.5, 4.6)
    panels = figure.subplots(1, len(METRICS))
    for axes, (metric, label) in zip(panels, METRICS.items(), strict=True):
        for number, (name, curves) in enumerate(found.items()):
            values = np.array([curve[metric] for curve in curves])
            rounds, color = np.arange(1, values.shape[1] + 1), PALETTE[number]
            axes.fill_between(rounds, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
            axes.plot(rounds, values.mean(0), color=color, linewidth=1.6, label=name)
        style(axes, x="round", y=label, title=f"{label.capitalize()}, 90 % stragglers")
        axes.set_xlim(left=1)
    panels[0].set_yscale("log")
    legend(figure, panels[0])
    path.unlink(missing_ok=True)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())

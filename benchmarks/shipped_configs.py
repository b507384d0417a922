"""What the shipped configs reach on real data, beside the figure that each is held to.

    python benchmarks/shipped_configs.py [--quick] [--only NAME ...] [--workers 2]

Needs FLCTL_TEST_DATA, the folder of real data sets. Runs the three commands that each config's comment names, and the
baselines in the same run: local-only models for the keyboard, a pooled logistic regression for activity. Adds to
benchmarks/results/shipped_configs.json and .md; `--quick` plays two rounds of each and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness.measurement import machine
from harness.results import RESULTS
from harness.trainings import data_folder, flctl

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Target:
    """One config, where its data lie under FLCTL_TEST_DATA, and what it is held to."""

    name: str
    source: str
    claim: str
    judge: Callable[[dict[str, Any], Path, Path], tuple[bool, str]]


def within(rounds: int, accuracy: float) -> Callable[[dict[str, Any], Path, Path], tuple[bool, str]]:
    """Judges a run by the round in which it reached an accuracy on the central test set."""

    def judge(summary: dict[str, Any], parts: Path, run: Path) -> tuple[bool, str]:
        best = summary["best"]
        lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        hit = next((line["round"] for line in lines if line.get("accuracy", 0.0) >= accuracy), None)
        found = f"reached in round {hit}" if hit else f"not reached; best {best['value']:.4f} in round {best['round']}"
        return hit is not None and hit <= rounds, found

    return judge


def near_pooled(summary: dict[str, Any], parts: Path, run: Path) -> tuple[bool, str]:
    """Judges activity: a pooled logistic regression on the same split stands beside it."""
    from sklearn.linear_model import LogisticRegression

    from flctl.partition.store import Partition

    partition = Partition.open(parts)
    shards = [partition.train(index) for index in range(partition.clients)]
    x, y = (np.concatenate(part) for part in zip(*shards, strict=True))
    pooled = LogisticRegression(max_iter=3000).fit(x, y).score(*partition.central_test())
    accuracy = summary["final"]["accuracy"]
    return accuracy >= 0.789 - 0.02, f"{accuracy:.4f}; pooled logistic regression on the same split {pooled:.4f}"


def beats_local(summary: dict[str, Any], parts: Path, run: Path) -> tuple[bool, str]:
    """Judges the keyboard: mean accuracy over roles, beside models that each role trained alone, on its unseen text."""
    alone, together = local_only(run, epochs=(2, 5, 10))
    best = max(alone, key=lambda epochs: alone[epochs])
    text = ", ".join(f"{value:.4f} after {epochs} epochs" for epochs, value in alone.items())
    return together > alone[best], f"mean over roles {together:.4f}; local-only models {text}"


def local_only(path: Path, epochs: Sequence[int]) -> tuple[dict[int, float], float]:
    """Mean accuracy over clients, each on its own test rows: of models trained alone from the run's initial weights,
    by epochs of local training, and of the run's best global model."""
    from flctl.cli.train.job import open_stored
    from flctl.evaluation import evaluate
    from flctl.executors.batches import local_keys
    from flctl.executors.sequential import single_thread, train
    from flctl.executors.shards import LocalJob
    from flctl.server.round_plan import local_work

    single_thread()
    run, directory = open_stored(path)
    model, task, start = run.build_model(), run.task(), run.build_model().read()
    ids = np.array(list(run.partition.client_ids))
    scores: dict[int, list[float]] = {count: [] for count in epochs}
    for index in range(run.partition.clients):
        x, y = run.partition.train(index)
        test_x, test_y = run.partition.test(index)
        if not len(test_y):
            continue
        model.load(start)
        for epoch in range(1, max(epochs) + 1):
            train(model, task, LocalJob(x, y, local_work(run, 1), local_keys(epoch, 0, ids[index : index + 1])[0]))
            if epoch in scores:
                made = evaluate.run_model(model, task, test_x, test_y)
                scores[epoch].append(float(made.correct.sum() / made.count.sum()))  # type: ignore[union-attr]
    summary = directory.summary() or {}
    together = run.build_model()
    together.load(directory.checkpoints.load(summary["best"]["round"], together).params)
    found = evaluate.clients(together, run.partition, task).values["accuracy"]
    return {count: float(np.mean(values)) for count, values in scores.items()}, float(np.nanmean(found))


TARGETS = (
    Target("mnist", "mnist", "97 % within 87 rounds (McMahan et al. 2017, Table 1, 2NN, IID)", within(87, 0.97)),
    Target("mnist-cnn", "mnist", "99 % within 20 rounds (McMahan et al. 2017, Table 2, CNN, IID)", within(20, 0.99)),
    Target(
        "mnist-non-iid",
        "mnist",
        "97 % within 664 rounds (McMahan et al. 2017, Table 1, 2NN, two shards each)",
        within(664, 0.97),
    ),
    Target("keyboard", "tinyshakespeare/input.txt", "beats the mean of local-only models on unseen text", beats_local),
    Target(
        "activity",
        "wisdm/WISDM_ar_v1.1_transformed.arff",
        "within two points of a pooled logistic regression's 0.789",
        near_pooled,
    ),
)


def main() -> int:
    """Runs the targets; the exit code is 1 when one is missed."""
    options = _parse()
    data = data_folder()
    if not data:
        return 0
    chosen = [target for target in TARGETS if not options.only or target.name in options.only]
    met = True
    for target in chosen:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(target, data, Path(folder), options)
        print(f"{row['config']}: {row['found']} (held to: {row['claim']})", flush=True)
        if not options.quick:
            met = met and row["met"]
            record(row)
    return 0 if met else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of each; nothing is written")
    parser.add_argument("--only", nargs="+", choices=[target.name for target in TARGETS])
    parser.add_argument("--workers", default="2")
    parser.add_argument("--run", type=Path, help="judge this finished run of the one config in --only")
    return parser.parse_args()


def measure(target: Target, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Partitions, trains and judges one config."""
    config = ROOT / "sample_configs" / f"{target.name}.yaml"
    parts, run = folder / "parts", options.run or folder / "run"
    if options.run is None:
        few = ["--rounds", "2", "-o", "eval.every=1"] if options.quick else []
        flctl("partition", str(data / target.source), "--config", str(config), "--out", str(parts))
        flctl("train", str(parts), "--config", str(config), "--workers", options.workers, *few, "--out", str(run))
    facts = json.loads((run / "run.json").read_text())
    parts = (run / facts["partition"]).resolve()
    summary = json.loads((run / "summary.json").read_text())
    if options.quick:
        return {"config": target.name, "claim": target.claim, "found": f"{summary['rounds']} rounds played"}
    met, found = target.judge(summary, parts, run)
    command = f"flctl train --config sample_configs/{target.name}.yaml --workers {options.workers}"
    return {
        **{key: value for key, value in asdict(target).items() if key not in ("judge", "name", "source")},
        "config": target.name,
        "command": command,
        "found": found,
        "met": met,
        "seconds": round(summary["seconds"]),
        "machine": machine(),
        "config_digest": facts["config_digest"],
        "partition_digest": facts["partition_digest"],
    }


def record(row: dict[str, Any]) -> None:
    """Puts one result into the tables, over an older one of the same config."""
    path = RESULTS / "shipped_configs.json"
    rows = {old["config"]: old for old in json.loads(path.read_text())} if path.exists() else {}
    rows[row["config"]] = row
    ordered = [rows[target.name] for target in TARGETS if target.name in rows]
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    lines = ["# What the shipped configs reach", "", "Measured by `python benchmarks/shipped_configs.py`.", ""]
    lines += ["| command | held to | found | met | seconds | machine |", "|---|---|---|---|---:|---|"]
    cells = ("command", "claim", "found", "met", "seconds", "machine")
    for item in ordered:
        shown = {**item, "command": f"`{item['command']}`", "met": "yes" if item["met"] else "**no**"}
        lines.append("| " + " | ".join(str(shown[cell]) for cell in cells) + " |")
    (RESULTS / "shipped_configs.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())

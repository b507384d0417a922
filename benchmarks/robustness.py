"""What each rule makes of each attack: accuracy with 5 of 25 clients malicious, on MNIST.

    python benchmarks/robustness.py [--quick] [--workers 2] [--rounds 70] [--seeds 0 1 2]

Needs FLCTL_TEST_DATA, the folder of real data sets. Trains a small network with each rule under each attack, for each
seed, which draws the partition, who is malicious and all else. Steps are few and small, so that updates differ as much
as those of few rows do: attacks that hide in the spread need one. Writes benchmarks/results/robustness.json, .md and
.png, and fails where a claim below the table is missed; `--quick` plays a few rounds of some on scikit-learn's digits
and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.results import RESULTS, write
from harness.robustness_heatmap import draw
from harness.robustness_table import Cell, Claim, Table, claims, markdown, table
from harness.trainings import Job, facts, flctl, parser, source_of, trained

CLIENTS, MALICIOUS = 25, 5
COMMON = (
    "model=mlp",
    "model.hidden=[32]",
    "cohort.sampling=all",
    "local.batch_size=8",
    "local.lr=0.1",
    "eval.every=0",
    "checkpoint.every=0",
    "checkpoint.seconds=0",
)
RULES = {
    "mean": ("strategy=fedavg",),
    "median": ("strategy=fedmedian",),
    "trimmed mean": ("strategy=fedtrimmedavg", "strategy.trim=0.2"),
    "krum": ("strategy=krum", f"strategy.num_malicious={MALICIOUS}"),
    "multi-krum": ("strategy=multikrum", f"strategy.num_malicious={MALICIOUS}"),
    "bulyan": ("strategy=bulyan", f"strategy.num_malicious={MALICIOUS}"),
    "geometric median": ("strategy=geometric-median",),
    "centered clipping": ("strategy=centered-clipping", "strategy.tau=0.1"),
    "norm bounding": ("strategy=norm-bounding",),
    "fltrust": ("strategy=fltrust", "strategy.root='0'"),
}
ATTACKS = {
    "none": (),
    "label flip": ("attack.name=label-flip",),
    "sign flip": ("attack.name=sign-flip",),
    "gaussian": ("attack.name=gaussian",),
    "ALIE": ("attack.name=alie", "attack.z=1.5"),
    "IPM 0.1": ("attack.name=ipm", "attack.epsilon=0.1"),
    "IPM 100": ("attack.name=ipm", "attack.epsilon=100"),
    "min-max": ("attack.name=min-max",),
    "backdoor": ("attack.name=backdoor",),
}
QUICK = (("mean", "median", "multi-krum"), ("none", "ALIE", "IPM 100", "backdoor"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints, writes; 1 where a claim is missed."""
    asked = _parse(arguments)
    source = source_of("mnist", quick=asked.quick)
    if source is None:
        return 0
    started = time.monotonic()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # trainings run side by side
    with tempfile.TemporaryDirectory() as folder:
        done = trained(list(jobs(asked, source, Path(folder))), asked.workers)
        cells = [cell(job, lines, asked.rounds) for job, lines in done]
    made = table(cells, tuple(asked.rules), tuple(asked.attacks))
    print(made.text())
    if asked.quick:
        return 0
    judged = claims(made)
    for claim in judged:
        print(claim.line())
    _write(asked, made, judged, facts(asked, started))
    return 0 if all(claim.met for claim in judged) else 1


def jobs(asked: argparse.Namespace, source: str, folder: Path) -> Iterator[Job]:
    """Every rule under every attack, for each seed over its own partition."""
    for seed in asked.seeds:
        parts = folder / f"parts-{seed}"
        scheme = ("--scheme", "dirichlet", "--alpha", str(asked.alpha), "--clients", str(CLIENTS), "--seed", str(seed))
        split = ("--test-fraction", "0.2") if source == "digits" else ()
        flctl("partition", source, *scheme, *split, "--out", str(parts))
        for rule in asked.rules:
            for attack in asked.attacks:
                run = folder / f"{rule}-{attack}-{seed}".replace(" ", "-")
                malicious = (f"attack.clients={MALICIOUS}",) if ATTACKS[attack] else ()
                own = (f"rounds={asked.rounds}", f"local.steps={asked.steps}", *malicious)
                yield Job(f"{rule}, {attack}", seed, parts, run, (*COMMON, *RULES[rule], *ATTACKS[attack], *own))


def cell(job: Job, lines: Sequence[Mapping[str, Any]], rounds: int) -> Cell:
    """A training's accuracy on the central test set; 0 where it diverged, of which nothing is left to evaluate."""
    rule, attack = job.name.split(", ")
    if len(lines) < rounds:
        return Cell(rule, attack, job.seed, 0.0, None)
    return Cell(rule, attack, job.seed, lines[-1]["accuracy"], lines[-1].get("backdoor_success"))


def _write(asked: argparse.Namespace, made: Table, judged: Sequence[Claim], known: Mapping[str, Any]) -> None:
    setting = (
        f"MNIST, MLP with 32 hidden units, {CLIENTS} clients (Dirichlet {asked.alpha:g}) of whom {MALICIOUS} are "
        f"malicious, all asked each round; {asked.rounds} rounds of {asked.steps} steps of 8 rows, lr 0.1; "
        f"seeds {', '.join(map(str, asked.seeds))}"
    )
    settings = {"common": COMMON, "rules": RULES, "attacks": ATTACKS}
    report = {**known, "setting": setting, "settings": settings, **made.report(judged)}
    write(report, markdown(report, made, judged), "robustness", asked.out or RESULTS)
    draw(made, setting, (asked.out or RESULTS) / "robustness.png")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, "a few rounds on digits, nothing is judged", rounds=70, seeds=(0, 1, 2))
    options.add_argument("--steps", type=int, default=2, help="local steps a round")
    options.add_argument("--alpha", type=float, default=1.0, help="of the Dirichlet partition")
    options.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE")
    options.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="ATTACK")
    options.add_argument("--out", type=Path, help="where the results go")
    asked = options.parse_args(arguments)
    if asked.quick:
        asked.rounds, asked.steps, asked.seeds, (asked.rules, asked.attacks) = 3, 5, [0], QUICK
    return asked


if __name__ == "__main__":
    sys.exit(main())

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _heat import draw
from _measure import machine
from _results import RESULTS, command, write
from _robust_table import Cell, Claim, Table, claims, markdown, table

CLIENTS, MALICIOUS = 25, 5
FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]
COMMON = ("model=mlp", "model.hidden=[32]", "cohort.sampling=all", "local.batch_size=8", "local.lr=0.1", "eval.every=0")
QUIET = ("checkpoint.every=0", "checkpoint.seconds=0")
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


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    rule: str
    attack: str
    seed: int
    rounds: int
    steps: int
    partition: Path
    run: Path

    def settings(self) -> list[str]:
        """The configuration, as `-o` would have it."""
        malicious = [f"attack.clients={MALICIOUS}"] if ATTACKS[self.attack] else []
        own = [f"rounds={self.rounds}", f"seed={self.seed}", f"local.steps={self.steps}"]
        return [*COMMON, *QUIET, *own, *RULES[self.rule], *ATTACKS[self.attack], *malicious]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints, writes; 1 where a claim is missed."""
    asked = _parse(arguments)
    data = os.environ.get("FLCTL_TEST_DATA")
    if not (data or asked.quick):
        print("skipped: FLCTL_TEST_DATA does not name the folder of real data sets", file=sys.stderr)
        return 0
    source = "digits" if asked.quick else str(Path(data or "") / "mnist")
    started = time.monotonic()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # trainings run side by side
    with tempfile.TemporaryDirectory() as folder:
        cells = list(measured(list(jobs(asked, source, Path(folder))), asked.workers))
    made = table(cells, tuple(asked.rules), tuple(asked.attacks))
    print(made.text())
    if asked.quick:
        return 0
    judged = claims(made)
    for claim in judged:
        print(claim.line())
    _write(asked, made, judged, time.monotonic() - started)
    return 0 if all(claim.met for claim in judged) else 1


def jobs(asked: argparse.Namespace, source: str, folder: Path) -> Iterator[Job]:
    """Every rule under every attack, for each seed over its own partition."""
    for seed in asked.seeds:
        parts = folder / f"parts-{seed}"
        scheme = ["--scheme", "dirichlet", "--alpha", str(asked.alpha), "--clients", str(CLIENTS), "--seed", str(seed)]
        split = ["--test-fraction", "0.2"] if source == "digits" else []
        words = [*FLCTL, "partition", source, *scheme, *split, "--out", str(parts)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for rule in asked.rules:
            for attack in asked.attacks:
                run = folder / f"{rule}-{attack}-{seed}".replace(" ", "-")
                yield Job(rule, attack, seed, asked.rounds, asked.steps, parts, run)


def measured(todo: Sequence[Job], workers: int) -> Iterator[Cell]:
    """What came of each job, in their order, from so many processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, cell in enumerate(pool.map(trained, todo, chunksize=1), 1):
            print(f"{number}/{len(todo)} {cell.line()}", file=sys.stderr, flush=True)
            yield cell


def trained(job: Job) -> Cell:
    """One training's accuracy on the central test set; 0 where it diverged, of which nothing is left to evaluate."""
    from flctl.config import load
    from flctl.errors import DivergenceError
    from flctl.partition.store import Partition
    from flctl.registry import Registry
    from flctl.run import Run
    from flctl.rundir import RunDirectory
    from flctl.training import train

    registry, partition = Registry(), Partition.open(job.partition)
    loaded = load(registry, overrides=[f"data={job.partition.as_posix()}", *job.settings()])
    directory = RunDirectory.create(job.run, loaded, partition)
    run = Run.build(loaded.config, registry, partition, directory.memory)
    try:
        final: dict[str, Any] = train(run, directory).summary["final"]
    except DivergenceError:
        return Cell(job.rule, job.attack, job.seed, 0.0, None)
    return Cell(job.rule, job.attack, job.seed, final["accuracy"], final.get("backdoor_success"))


def _write(asked: argparse.Namespace, made: Table, judged: Sequence[Claim], seconds: float) -> None:
    day = datetime.now(UTC).date().isoformat()
    facts: dict[str, Any] = {"command": command(), "date": day, "machine": machine(), "seconds": round(seconds)}
    facts["setting"] = (
        f"MNIST, MLP with 32 hidden units, {CLIENTS} clients (Dirichlet {asked.alpha:g}) of whom {MALICIOUS} are "
        f"malicious, all asked each round; {asked.rounds} rounds of {asked.steps} steps of 8 rows, lr 0.1; "
        f"seeds {', '.join(map(str, asked.seeds))}"
    )
    report = {**facts, "settings": {"common": COMMON, "rules": RULES, "attacks": ATTACKS}, **made.report(judged)}
    write(report, markdown(facts, made, judged), "robustness", asked.out or RESULTS)
    draw(made, facts["setting"], (asked.out or RESULTS) / "robustness.png")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds on digits; nothing is judged or written")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--rounds", type=int, default=70)
    parser.add_argument("--steps", type=int, default=2, help="local steps a round")
    parser.add_argument("--alpha", type=float, default=1.0, help="of the Dirichlet partition")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="ATTACK")
    parser.add_argument("--out", type=Path, help="where the results go")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.rounds, asked.steps, asked.seeds, (asked.rules, asked.attacks) = 3, 5, [0], QUICK
    return asked


if __name__ == "__main__":
    sys.exit(main())

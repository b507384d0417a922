"""A large federation's rounds, in a process of its own: seconds a round, and the memory of all its processes.

PYTHONPATH=benchmarks python -m harness.large_federation --clients 1000000 --cohort 10000      prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flctl.data.dataset import Dataset, Split
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from harness.flctl_rounds import build_run, executor_of, opened
from harness.floor import memory_folder
from harness.measurement import family, peak_bytes, resident
from harness.processes import environment, module_command
from harness.workloads import FEATURES, SEED, W3, Dealt

CHUNK = 1 << 18


def make(path: Path, clients: int, rows: int) -> None:
    """Partitions `rows` seeded rows for each client into `path`, by flctl's own writer, from a file beside it."""
    rng, total = np.random.default_rng(SEED), clients * rows
    table = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.float32, (total, *FEATURES))
    y = rng.integers(0, 10, total)
    for start in range(0, total, CHUNK):
        part = table[start : start + CHUNK]
        part[:] = rng.standard_normal(part.shape, np.float32)
        part[:, :10] += np.eye(10, dtype=np.float32)[y[start : start + CHUNK]]
    test = Split(rng.standard_normal((100, *FEATURES), np.float32), rng.integers(0, 10, 100))
    names = tuple(f"f{number}" for number in range(FEATURES[0]))
    dataset = Dataset("gaussians", "classification", table, y, tuple("0123456789"), names, test=test)
    sizes = np.full(clients, rows, np.int64)
    write_partition(path, dataset, Dealt(sizes), PartitionSpec(clients=clients, test_fraction=0.0, seed=SEED))
    path.with_suffix(".npy").unlink()


def measure(path: Path, cohort: int, rounds: int, workers: int, executor: str | None) -> dict[str, Any]:
    """Seconds to open, of the first round, and of each later one; peak MiB of each process, and what is resident in
    the end by kind."""
    started = time.perf_counter()
    partition = Partition.open(path)
    workload = replace(W3, clients=partition.clients, cohort=cohort)
    run = build_run(partition, path.parent / "run", workload.settings(), workers=workers, executor=executor)
    with opened(run) as ours:
        ready = time.perf_counter() - started
        first = ours.play(1)
        times = [ours.play(1) for _ in range(rounds)]
        members = family(os.getpid())
        peaks = [peak_bytes(pid) / 2**20 for pid in members]
        kinds = [resident(pid) for pid in members]
        return {
            "open_seconds": ready,
            "first_seconds": first,
            "times": times,
            "peak_mib": peaks,
            "resident_mib": kinds,
            "executor": executor_of(ours),
            "phases": {name: seconds / (rounds + 1) for name, seconds in ours.phases.items()},
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=20, help="of each client")
    parser.add_argument("--cohort", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor")
    parser.add_argument("--make", type=Path, help="only partition, into this directory")
    asked = parser.parse_args(arguments)
    if asked.make:
        make(asked.make, asked.clients, asked.rows)
        return
    # The store goes through the disk's cache in any case; in memory, it need not be written out first.
    needed = 2 * asked.clients * asked.rows * 4 * (FEATURES[0] + 3)
    with tempfile.TemporaryDirectory(dir=memory_folder(needed)) as name:
        path, size = Path(name) / "parts", ["--clients", str(asked.clients), "--rows", str(asked.rows)]
        # In a process of its own: its memory is not the rounds'.
        subprocess.run(module_command("large_federation", *size, "--make", str(path)), check=True, env=environment())
        print(json.dumps(measure(path, asked.cohort, asked.rounds, asked.workers, asked.executor)))


if __name__ == "__main__":
    main()

"""W4: the server's sum of large updates against torch adding them up; in a process of its own, for its memory.

PYTHONPATH=benchmarks python -m harness.aggregation --updates 100 --length 10000000      prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flctl import wire
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateIntake
from flctl.types import WEIGHT
from harness.measurement import TOLERANCE, ChecksumError, peak_bytes, reset_peak

Vector = npt.NDArray[np.float32]
DISTINCT = 10
"""So many updates exist and are added again and again: together they are far larger than any cache."""


@dataclass(frozen=True, slots=True)
class Load:
    """`updates` of them, of `length` each: as torch meets them with a weight, and as messages that clients sent."""

    updates: int
    length: int
    vectors: list[torch.Tensor]
    weights: list[float]
    messages: list[bytes]

    @classmethod
    def make(cls, updates: int, length: int) -> Load:
        """Seeded updates; what a client does (multiply by its weight, pack) is done here and not timed."""
        rng = np.random.default_rng(7)
        arrays = [rng.standard_normal(length, np.float32) for _ in range(min(DISTINCT, updates))]
        counts = [float(count) for count in rng.integers(5, 500, len(arrays))]
        messages = [
            wire.pack("vector", arrays={"delta": array * np.float32(count), WEIGHT: np.array([count])})
            for array, count in zip(arrays, counts, strict=True)
        ]
        total = sum(counts[number % len(counts)] for number in range(updates))
        weights = [count / total for count in counts]
        return cls(updates, length, [torch.from_numpy(array) for array in arrays], weights, messages)

    def torch_sum(self) -> Vector:
        """The floor: one accumulator, one fused multiply-add per update."""
        total = torch.zeros(self.length)
        for number in range(self.updates):
            which = number % len(self.vectors)
            total.add_(self.vectors[which], alpha=self.weights[which])
        return total.numpy()

    def flctl_sum(self) -> Vector:
        """The server's intake as a round uses it: each message is opened, checked and added."""
        total = SumAccumulator(UpdateIntake({"delta": self.length, WEIGHT: 1}))
        for number in range(self.updates):
            total.add(str(number), self.messages[number % len(self.messages)])
        return np.asarray(total.aggregate().mean("delta"))


def extra_vectors(make: Callable[[], Vector], length: int) -> float:
    """The most memory that `make` held beyond what was there before, in vectors of float32."""
    before = reset_peak()
    made = make()
    held = peak_bytes(os.getpid()) - before
    del made
    return held / (4 * length)


def timed(make: Callable[[], Vector], threads: int) -> tuple[float, Vector]:
    """Seconds, and what was made."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    made = make()
    return time.perf_counter() - started, made


def measure(updates: int, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of each by repeat, extra vectors of each, and how far the means are apart."""
    load = Load.make(updates, length)
    ways = {"torch": (load.torch_sum, 1), "torch, two threads": (load.torch_sum, 2), "flctl": (load.flctl_sum, 1)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        made = {}
        for name, (make, threads) in ways.items():
            seconds, made[name] = timed(make, threads)
            times[name].append(seconds)
    difference = float(np.abs(made["flctl"] - made["torch"]).max())
    tolerance = TOLERANCE * float(np.abs(made["torch"]).max())
    if not difference <= tolerance:
        raise ChecksumError(f"the means differ by {difference:.2g}, tolerated {tolerance:.2g}")
    del made
    torch.set_num_threads(1)
    memory = {name: extra_vectors(make, length) for name, (make, threads) in ways.items() if threads == 1}
    return {"times": times, "extra_vectors": memory, "difference": difference, "tolerance": tolerance}


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--length", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

"""What the script of each peer starts from: the workload's data and numbers, and a clock of its rounds.

Runs in the peer's own environment: torch and numpy are there, flctl is not. A script is given one JSON object and
prints another as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from harness import torch_models

__all__ = ["Clock", "Spec", "given"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One workload: where the rows lie, the model, and how clients train (one epoch, plain SGD)."""

    data: str
    model: str
    options: dict[str, Any]
    clients: int
    cohort: int
    lr: float
    batch_size: int
    rounds: int
    workers: int

    def module(self) -> torch.nn.Module:
        """The freshly initialised model."""
        torch.manual_seed(7)
        return torch_models.build(self.model, self.options)

    def rows(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """x [n, ...], y [n] in memory, and where each client's rows begin [clients + 1]."""
        x, y, bounds = (np.load(Path(self.data) / f"{name}.npy") for name in ("x", "y", "bounds"))
        return torch.from_numpy(x), torch.from_numpy(y), bounds.tolist()


@dataclass(slots=True)
class Clock:
    """When rounds ended."""

    ends: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """A round ended now."""
        self.ends.append(time.time())

    def report(self, version: str) -> None:
        """Prints when the first round ended and how long each later one took."""
        seconds = [later - earlier for earlier, later in pairwise(self.ends)]
        print("\n" + json.dumps({"version": version, "first_end": self.ends[0], "seconds": seconds}), flush=True)


def given() -> Spec:
    """The spec that the driver passed on the command line."""
    return Spec(**json.loads(sys.argv[1]))

"""Paired, interleaved timing; equality of what was timed; memory and the machine."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flctl.performance.benchmark import Repeats

__all__ = [
    "BOUND",
    "TOLERANCE",
    "Check",
    "ChecksumError",
    "Contender",
    "Repeats",
    "family",
    "machine",
    "paired",
    "peak_bytes",
    "ratios",
    "reset_peak",
    "resident",
]

Times = Mapping[str, Sequence[float]]
TOLERANCE, BOUND = 2e-4, 0.05
"""Largest difference between two global models after a block, as a part of the largest change that the block made to a
parameter: of the middle block, and of any. Equal arithmetic in another order stays five times below the first, another
order of batches is four times above it; a ReLU that rounding tips the other way shows in its block only."""


class ChecksumError(Exception):
    """Two contenders that should have computed the same did not."""


class Contender(Protocol):
    """What is timed: plays rounds, shows the global model that it has come to, and can go on from another."""

    def play(self, count: int) -> float:
        """Seconds that the next `count` rounds take."""

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D]."""

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Takes `model` [D] for its own."""


@dataclass(frozen=True, slots=True)
class Check:
    """How far apart global models were, relative to the change: in the middle block and in the worst one."""

    difference: float
    worst: float
    tolerance: float = TOLERANCE
    bound: float = BOUND


def paired(
    contenders: Mapping[str, Contender],
    blocks: int,
    rounds: int,
    start: npt.NDArray[np.float32],
    apart: Collection[str] = (),
    tolerance: float = TOLERANCE,
) -> tuple[dict[str, list[float]], Check]:
    """Seconds a round of each contender in each block of so many rounds, after one round that warms up; and that all
    but those `apart` computed what the first one did from `start` [D].

    Within a block they take turns, and which one begins goes round. After each block, models are compared, and all go
    on from the first one's. Raises ChecksumError for models that differ.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names, same = list(contenders), {name: item for name, item in contenders.items() if name not in apart}
    differences = []
    for contender in contenders.values():
        contender.play(1)
    for block in range(blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(contenders[name].play(rounds) / rounds)
        model = contenders[names[0]].params()
        differences.append(_difference(same, start, model))
        start = model
        for contender in same.values():
            contender.restart(model)
    return times, _checked(differences, tolerance)


def _difference(
    same: Mapping[str, Contender], start: npt.NDArray[np.float32], model: npt.NDArray[np.float32]
) -> tuple[float, str]:
    """The largest difference from `model`, relative to its distance from `start`, and whose it is."""
    moved = float(np.abs(model.astype(np.float64) - start).max())
    if not moved > 0:
        raise ChecksumError("the rounds did not change the model: equality would prove nothing")
    others = (
        (float(np.abs(item.params() - model.astype(np.float64)).max()) / moved, name) for name, item in same.items()
    )
    return max(others, key=lambda found: (math.isnan(found[0]), found[0]))


def _checked(differences: Sequence[tuple[float, str]], tolerance: float = TOLERANCE) -> Check:
    middle, name = sorted(differences)[(len(differences) - 1) // 2]
    worst, whose = max(differences)
    if not middle <= tolerance or not all(value <= BOUND for value, _ in differences):  # NaN fails too
        raise ChecksumError(
            f"models differ by {middle:.2g} of their change in the middle block ('{name}', tolerated {tolerance:g}), "
            f"by {worst:.2g} in the worst ('{whose}', tolerated {BOUND:g})"
        )
    return Check(middle, worst)


def ratios(times: Times, slow: str, fast: str) -> Repeats:
    """The spread of the paired ratios `slow` / `fast`."""
    return Repeats.of([one / other for one, other in zip(times[slow], times[fast], strict=True)])


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def peak_bytes(pid: int) -> int:
    """The most memory a process had resident since it started, or since `reset_peak`."""
    # Not ru_maxrss: that of the process which started this one counts in it.
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def resident(pid: int) -> dict[str, float]:
    """What a process has resident, in MiB by kind: its own (RssAnon), and mapped files (RssFile, RssShmem), whose pages
    processes share."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[0].startswith("Rss")}


def reset_peak() -> int:
    """Makes `peak_bytes` of this process start anew, and returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(os.getpid())


def machine() -> str:
    """The machine without its name."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, NumPy {np.__version__}"
    )

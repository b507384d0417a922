"""Paired, interleaved timing; equality of what was timed; memory and the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "TOLERANCE",
    "Check",
    "ChecksumError",
    "Contender",
    "Spread",
    "compare",
    "family",
    "machine",
    "paired",
    "peak_bytes",
    "ratios",
    "reset_peak",
]

Times = Mapping[str, Sequence[float]]
TOLERANCE = 1e-3
"""Largest difference between two global models, as a part of the largest change that training made to a parameter.
Equal arithmetic in another order stays a hundred times below it; another batch order is ten times above."""


class ChecksumError(Exception):
    """Two contenders that should have computed the same did not."""


class Contender(Protocol):
    """What is timed: plays rounds, and can show the global model it has come to."""

    def play(self, count: int) -> float:
        """Seconds that the next `count` rounds take."""

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D]."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 3) -> str:
        """`median (low-high)` with so many significant digits."""
        return "{} ({}-{})".format(*(f"{value:.{digits}g}" for value in (self.median, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Check:
    """How far global models are apart: the largest difference of a parameter, what is tolerated, and how far
    training moved the model at all."""

    difference: float
    tolerance: float
    moved: float


def paired(contenders: Mapping[str, Contender], blocks: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a round of each contender in each block of so many rounds, after one round that warms up.

    Within a block they take turns, and which one begins goes round.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for contender in contenders.values():
        contender.play(1)
    for block in range(blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(contenders[name].play(rounds) / rounds)
    return times


def ratios(times: Times, slow: str, fast: str) -> Spread:
    """The spread of the paired ratios `slow` / `fast`."""
    return Spread.of([one / other for one, other in zip(times[slow], times[fast], strict=True)])


def compare(contenders: Mapping[str, Contender], start: npt.NDArray[np.float32]) -> Check:
    """How far the contenders' models are from the first one's. Raises ChecksumError beyond the tolerance."""
    models = {name: contender.params().astype(np.float64) for name, contender in contenders.items()}
    (reference, model), *others = models.items()
    moved = float(np.abs(model - start).max())
    worst, name = max((float(np.abs(other - model).max()), name) for name, other in others)
    check = Check(worst, TOLERANCE * moved, moved)
    if not moved > 0 or not worst <= check.tolerance:  # written so that NaN fails
        raise ChecksumError(f"'{name}' is {worst:.2g} from '{reference}', tolerated {check.tolerance:.2g}")
    return check


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

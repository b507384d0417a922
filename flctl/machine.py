"""This machine, without its name and its paths: processors, memory that is free, and how old this process is."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["FreeMemory", "cores", "facts", "free_memory", "process_age"]

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Available memory in bytes, and the source of the figure."""

    bytes: int
    source: str


def free_memory(root: Path = ROOT) -> FreeMemory | None:
    """Memory available without swapping: the least of what the system reports and what control group limits leave.

    Uses the machine's total memory if the system does not report available memory. Returns None if neither the system
    nor a control group gives a figure. `root` is the folder that holds `proc` and `sys`.
    """
    found = [*_of_system(root), *_of_groups(root)]
    return min(found, key=lambda free: free.bytes, default=None)


def _of_system(root: Path) -> Iterator[FreeMemory]:
    text = _text(root / "proc" / "meminfo")
    line = next((line for line in text.splitlines() if line.startswith("MemAvailable:")), None)
    if line is not None:
        yield FreeMemory(int(line.split()[1]) * 1024, "free on this machine")
        return
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if total > 0:
        yield FreeMemory(total, "all of this machine's memory")


def _of_groups(root: Path) -> Iterator[FreeMemory]:
    """Memory that each control group of this process leaves below its limit, for versions 2 and 1."""
    groups = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            names = ("memory.max", "memory.current", "inactive_file")
            for base in (groups, groups / "unified"):
                yield from _of_group(base, path, names)
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _of_group(groups / "memory", path, names)


def _of_group(base: Path, path: str, names: tuple[str, str, str]) -> Iterator[FreeMemory]:
    """Limit less use of a group and those above it. Cached file pages count as use but are given back first; inside a
    container the path may be one of the host's, and the container's own group lies at `base`."""
    limit_name, use_name, cached_name = names
    group = base / path.strip("/")
    for folder in (group, *group.parents):
        limit, use = _number(folder / limit_name), _number(folder / use_name)
        if limit is not None and use is not None:
            rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
            cached = next((int(row[1]) for row in rows if row[0] == cached_name), 0)
            yield FreeMemory(max(limit - use + cached, 0), "left by the limit of this process's control group")
        if folder == base:
            return


def _number(path: Path) -> int | None:
    """Returns the whole number in a file, or None for other text ("max" means no limit) and unreadable files."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cores(root: Path = ROOT) -> int:
    """Number of cores this process may use: the lesser of its CPU affinity and its control group's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([usable, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that control groups allow, as far as they lie at the root of what this process sees."""
    groups = root / "sys" / "fs" / "cgroup"
    quota, _, period = _text(groups / "cpu.max").strip().partition(" ")
    if quota.isdecimal() and period.isdecimal():
        yield int(quota) / int(period)
    whole, part = _number(groups / "cpu" / "cpu.cfs_quota_us"), _number(groups / "cpu" / "cpu.cfs_period_us")
    if whole is not None and part:
        yield whole / part


def process_age() -> float | None:
    """Seconds since this process started, to a hundredth; None where the system does not say."""
    fields = _text(ROOT / "proc" / "self" / "stat").rpartition(")")[2].split()
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if len(fields) < 20 or clock is None:
        return None
    age = time.clock_gettime(clock) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return age if age >= 0 else None


def facts() -> dict[str, str | int]:
    """Cores, processor, system and library versions that a measurement depends on."""
    return {
        "cores": cores(),
        "processor": _processor() or platform.machine(),
        "system": f"{platform.system()} ({platform.machine()})",
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def _processor() -> str | None:
    lines = _text(ROOT / "proc" / "cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)

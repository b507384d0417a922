"""Shell completion of names of runs, partitions and components."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["complete_models", "complete_partitions", "complete_runs", "complete_strategies"]


def _folders(marker: str, incomplete: str) -> Iterable[str]:
    """The folders beside, below or one level below `incomplete` that hold the file `marker`."""
    start = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    patterns = (f"*/{marker}", f"*/*/{marker}")
    found = {path.parent.as_posix() for pattern in patterns for path in start.glob(pattern)}
    return sorted(name for name in found if name.startswith(incomplete))


def complete_runs(incomplete: str) -> Iterable[str]:
    """Run directories."""
    return _folders("run.json", incomplete)


def complete_partitions(incomplete: str) -> Iterable[str]:
    """Partition directories."""
    return _folders("manifest.json", incomplete)


def _names(kind: str, incomplete: str) -> Iterable[str]:
    from flctl.plugins.registry import Registry

    return sorted(name for name in Registry().offers(kind) if name.startswith(incomplete))


def complete_strategies(incomplete: str) -> Iterable[str]:
    """Strategy names."""
    return _names("strategy", incomplete)


def complete_models(incomplete: str) -> Iterable[str]:
    """Model names."""
    return _names("model", incomplete)

"""One run: its objects, cohort selection, its directory and its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flctl.run.run import Run as Run

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    # On first use: the directory and the checkpoints are read without a run's objects.
    if name == "Run":
        from flctl.run.run import Run

        return Run
    raise AttributeError(f"module 'flctl.run' has no attribute '{name}'")

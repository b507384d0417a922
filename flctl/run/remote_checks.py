"""Refusal of what only a simulation can do, for runs whose rows stay with their owners."""

from __future__ import annotations

from collections.abc import Iterator

from flctl.algorithms.run_info import RunInfo
from flctl.errors import IncompatibleError

__all__ = ["check_remote"]


def check_remote(run: RunInfo) -> None:
    """Raises IncompatibleError, with every reason, if the run's rows are elsewhere and it needs them here."""
    if run.partition.here:
        return
    found = list(_only_simulated(run))
    if found:
        raise IncompatibleError(
            f"the rows of {run.partition.path.name} stay with their owners, and only a simulation can use "
            f"{', '.join(found)}",
            hint="Leave these settings out, or train on a partition on this machine.",
        )


def _only_simulated(run: RunInfo) -> Iterator[str]:
    config = run.config
    if config.attack.name != "none":
        yield "`attack:`"
    if config.devices.simulated:
        yield "`devices:`"
    if config.cohort.sampling == "trace":
        yield "cohort.sampling: trace"
    if config.eval.per_client and run.strategy.personalises:
        yield "eval.per_client of personal models"
    if run.strategy.trusted:
        yield f"strategy {run.strategy.name}, which trusts a client's rows"
    if config.local.class_weights == "balanced":
        yield "local.class_weights: balanced"
    if not config.engine.alone:
        yield "engine.alone: false"

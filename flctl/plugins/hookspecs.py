"""The hooks that a plugin may implement. They find objects and announce events; they never carry data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.algorithms.strategy import Strategy
    from flctl.algorithms.transform import Transform
    from flctl.data.dataset import DatasetReader
    from flctl.engines.engine import Engine
    from flctl.models.model import Model
    from flctl.partition.partitioner import Partitioner
    from flctl.types import ClientProgress, RoundReport, WaitingRound

__all__ = ["PROJECT", "hookimpl"]

PROJECT = "flctl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def flctl_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Strategy classes; asked once, when a name is first looked up. So are the six below."""


@hookspec
def flctl_transforms() -> Iterable[type[Transform]]:  # type: ignore[empty-body]
    """Transform classes."""


@hookspec
def flctl_aggregators() -> Iterable[type[Aggregator]]:  # type: ignore[empty-body]
    """Aggregator classes."""


@hookspec
def flctl_engines() -> Iterable[type[Engine]]:  # type: ignore[empty-body]
    """Engine classes."""


@hookspec
def flctl_models() -> Iterable[type[Model]]:  # type: ignore[empty-body]
    """Model classes."""


@hookspec
def flctl_datasets() -> Iterable[type[DatasetReader]]:  # type: ignore[empty-body]
    """Data set reader classes."""


@hookspec
def flctl_partitioners() -> Iterable[type[Partitioner]]:  # type: ignore[empty-body]
    """Partition scheme classes."""


@hookspec
def flctl_commands(app: Any) -> None:
    """Adds subcommands to the Typer `app`; called when the command line starts, so it must not import torch."""


@hookspec
def flctl_run_started(run: Any) -> None:
    """A run begins or resumes; `run` is read-only. Results of this hook and the four below are ignored."""


@hookspec
def flctl_round_finished(report: RoundReport) -> None:
    """A round is over and its line is in metrics.jsonl."""


@hookspec
def flctl_round_waits(waiting: WaitingRound) -> None:
    """A round waits for clients that are away; called again when other clients are."""


@hookspec
def flctl_client_progress(progress: ClientProgress) -> None:
    """A client on another machine goes on; called often. Exceptions are dropped."""


@hookspec
def flctl_run_finished(result: Any) -> None:
    """The run ended and its summary is on disk."""

"""The built-in components, registered through the same hooks as everyone's. Imports happen inside the hooks,
so that a look-up of one kind does not load the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flctl.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.algorithms.strategy import Strategy
    from flctl.algorithms.transform import Transform
    from flctl.data.dataset import DatasetReader
    from flctl.engines.engine import Engine
    from flctl.models.model import Model
    from flctl.partition.partitioner import Partitioner
    from flctl.server.training import TrainingResult


@hookimpl
def flctl_strategies() -> Iterable[type[Strategy]]:
    from flctl.algorithms.strategies import STRATEGIES

    return STRATEGIES


@hookimpl
def flctl_transforms() -> Iterable[type[Transform]]:
    from flctl.algorithms.transforms import TRANSFORMS

    return TRANSFORMS


@hookimpl
def flctl_aggregators() -> Iterable[type[Aggregator]]:
    from flctl.algorithms.aggregators.plain import PlainAggregator

    return [PlainAggregator]


@hookimpl
def flctl_engines() -> Iterable[type[Engine]]:
    from flctl.engines import ENGINES
    from flctl.federation.coordinator.engine import NetworkEngine

    return [*ENGINES, NetworkEngine]


@hookimpl
def flctl_models() -> Iterable[type[Model]]:
    from flctl.models import MODELS

    return MODELS


@hookimpl
def flctl_datasets() -> Iterable[type[DatasetReader]]:
    from flctl.data import READERS

    return READERS


@hookimpl
def flctl_partitioners() -> Iterable[type[Partitioner]]:
    from flctl.partition import PARTITIONERS

    return PARTITIONERS


@hookimpl
def flctl_commands(app: Any) -> None:
    from flctl.cli import commands

    commands.register(app)


@hookimpl
def flctl_run_finished(result: TrainingResult) -> None:
    from flctl.report.curves import curves

    lines = result.directory.lines()
    if lines:
        curves(lines, result.directory.path / "curves.png")

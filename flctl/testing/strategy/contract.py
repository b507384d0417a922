"""The contract of strategies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flctl.algorithms.strategy import Strategy
from flctl.testing import parts
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, conform
from flctl.testing.examples import or_examples
from flctl.testing.strategy.clients import add_clients
from flctl.testing.strategy.runs import add_runs
from flctl.testing.strategy.server import add_server
from flctl.testing.strategy.subject import StrategySubject
from flctl.testing.temporary import temporary_directory
from flctl.testing.trial import Trial

__all__ = ["STRATEGY", "check_strategy"]


def _all() -> Checks:
    checks = component_checks("strategy")
    add_clients(checks)
    add_server(checks)
    add_runs(checks)
    return checks


STRATEGY = _all()


def check_strategy(
    strategy: type[Strategy],
    options: Mapping[str, Any] | None = None,
    *,
    run: Sequence[str] = (),
    processes: bool = True,
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that a strategy keeps the contract of `flctl.Strategy`; returns the names of the checks that ran.

    Trains nine clients of 8 to 24 rows for a few rounds, and calls the methods again on what they were given there.
    The model is logistic regression, or a normalised network for a strategy that keeps layers private. `run` are
    overrides (`KEY=VALUE`) that the strategy needs in a run; `processes=False` leaves out the two worker processes,
    which take a few seconds; `skip` are ids of checks that do not apply. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        trial = Trial(Path(directory), *_model(strategy), *run)
        subject = StrategySubject(strategy, or_examples(options, strategy), trial, processes=processes)
        return conform(STRATEGY, subject, title_of(strategy, "strategy"), skip)


def _model(strategy: type[Strategy]) -> Sequence[str]:
    """Override for a model with more than one layer, for strategies that distinguish layers."""
    return [f"model={parts.here('normed')}"] if getattr(strategy, "private", None) is not Strategy.private else []

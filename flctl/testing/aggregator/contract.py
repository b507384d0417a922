"""The contract of aggregators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flctl.algorithms.aggregator import Aggregator
from flctl.testing.aggregator.rounds import add_rounds
from flctl.testing.aggregator.runs import add_runs
from flctl.testing.aggregator.subject import AggregatorSubject
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, conform
from flctl.testing.examples import or_examples
from flctl.testing.temporary import temporary_directory
from flctl.testing.trial import Trial

__all__ = ["AGGREGATOR", "check_aggregator"]


def _all() -> Checks:
    checks = component_checks("aggregator")
    add_rounds(checks)
    add_runs(checks)
    return checks


AGGREGATOR = _all()


def check_aggregator(
    aggregator: type[Aggregator],
    options: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-5,
    run: Sequence[str] = (),
    processes: bool = True,
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that an aggregator keeps the contract of `flctl.Aggregator`; returns the names of the checks that ran.

    Plays rounds of nine clients with losses, repeated and garbled replies, and trains with it. `tolerance` is how far
    its sum may be from the plain one, as a share of the largest value; `run`, `processes` and `skip` are as in
    `check_strategy`. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        trial = Trial(Path(directory), *run)
        subject = AggregatorSubject(
            aggregator, or_examples(options, aggregator), trial, processes=processes, tolerance=tolerance
        )
        return conform(AGGREGATOR, subject, title_of(aggregator, "aggregator"), skip)

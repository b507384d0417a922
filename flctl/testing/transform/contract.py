"""The contract of transforms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flctl.algorithms.transform import Transform
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, conform
from flctl.testing.examples import or_examples
from flctl.testing.temporary import temporary_directory
from flctl.testing.transform.halves import add_halves
from flctl.testing.transform.runs import add_runs
from flctl.testing.transform.steps import add_steps
from flctl.testing.transform.subject import TransformSubject
from flctl.testing.trial import Trial

__all__ = ["TRANSFORM", "check_transform"]


def _all() -> Checks:
    checks = component_checks("transform")
    add_halves(checks)
    add_steps(checks)
    add_runs(checks)
    return checks


TRANSFORM = _all()


def check_transform(
    transform: type[Transform],
    options: Mapping[str, Any] | None = None,
    *,
    run: Sequence[str] = (),
    processes: bool = True,
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that a transform keeps the contract of `flctl.Transform`; returns the names of the checks that ran.

    Passes updates of several layouts through both halves, and trains nine clients with it. `run` are overrides
    (`KEY=VALUE`) that it needs in a run; `processes=False` leaves out the two worker processes, which take a few
    seconds; `skip` are ids of checks that do not apply. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        subject = TransformSubject(
            transform,
            or_examples(options, transform),
            Trial(Path(directory), *run),
            processes=processes,
        )
        return conform(TRANSFORM, subject, title_of(transform, "transform"), skip)

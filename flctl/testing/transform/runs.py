"""A transform in whole runs."""

from __future__ import annotations

from collections.abc import Iterator

from flctl.testing import parts
from flctl.testing.conformance import Checks
from flctl.testing.runs import close, finite
from flctl.testing.trained_subject import add_reproducible
from flctl.testing.transform.subject import TransformSubject

__all__ = ["add_runs"]


def add_runs(checks: Checks) -> None:
    """Adds the checks that train."""
    _add_trains(checks)
    _add_lost(checks)
    add_reproducible(
        checks,
        resume_todo="Keep server state in the state that on_server returns.",
        processes_todo="Keep no state on the object or in a module, and draw from ctx.rng.",
    )


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "A small model trains with it and the plain aggregator.",
        why="Training is the purpose of a transform.",
        todo="Follow the error message; pass configuration that the trial needs, as run=['cohort.sampling=poisson'].",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        if s.failure is not None:
            raise s.failure
        yield from finite(s.plain)

    @checks.add(
        "hidden",
        "It trains the same model if the server sees only the sum (unless it overrides on_arrival).",
        why="Secure aggregation reveals only the sum, and a transform must work with any aggregator.",
        todo="Override on_arrival only if single updates are needed; such an aggregator refuses the transform.",
    )
    def find_hidden(s: TransformSubject) -> Iterator[str]:
        plain = s.plain
        if not s.make().reads_each:
            hidden = s.trial.train(s.named, f"aggregator={parts.here('Hiding')}", "engine=inprocess")
            yield from close(hidden, plain, "under an aggregator that hides")


def _add_lost(checks: Checks) -> None:
    @checks.add(
        "lost",
        "A run continues if some or all clients of a round are lost.",
        why="More than `max_failures` failed clients end a run; up to that number on_server gets the sum of the "
        "others.",
        todo="Count clients by aggregate.count, not by ctx.asked.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        engine = f"engine={{name: '{parts.here('Losing')}', max_failures: 9, lost: ['%s'], since: 2}}"
        for lost in ("0', '3", "*") if s.plain else ():
            yield from finite(s.trial.train(s.named, engine % lost))

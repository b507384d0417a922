"""A transform in whole runs."""

from __future__ import annotations

from collections.abc import Iterator

from flctl.testing import parts
from flctl.testing.conformance import Checks
from flctl.testing.runs import POOL, close, finite, in_processes, same_bits
from flctl.testing.transform.subject import TransformSubject

__all__ = ["add_runs"]


def add_runs(checks: Checks) -> None:
    """Adds the checks that train."""
    _add_trains(checks)
    _add_lost(checks)
    _add_same(checks)


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "A small model trains through it, over the plain sum.",
        why="It is what a transform is for.",
        todo="Follow what is said; `run=[...]` gives the trial what it needs, as run=['cohort.sampling=poisson'].",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        if s.failure is not None:
            raise s.failure
        yield from finite(s.plain)

    @checks.add(
        "hidden",
        "It gives the same model where the server sees nothing but the sum (unless it overrides on_arrival).",
        why="Secure aggregation shows the server one sum, and a transform promises to work around any sum.",
        todo="Override on_arrival only where single updates are needed; it is refused under such an aggregator.",
    )
    def find_hidden(s: TransformSubject) -> Iterator[str]:
        plain = s.plain
        if not s.make().reads_each:
            hidden = s.trial.train(s.named, f"aggregator={parts.here('Hiding')}", "engine=inprocess")
            yield from close(hidden, plain, "under an aggregator that hides")


def _add_lost(checks: Checks) -> None:
    @checks.add(
        "lost",
        "A run goes on when clients are lost in a round, or all of them.",
        why="More than `max_failures` end a run; up to there on_server takes what is left.",
        todo="Count clients by aggregate.count, not by ctx.asked.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        engine = f"engine={{name: '{parts.here('Losing')}', max_failures: 9, lost: ['%s'], since: 2}}"
        for lost in ("0', '3", "*") if s.plain else ():
            yield from finite(s.trial.train(s.named, engine % lost))


def _add_same(checks: Checks) -> None:
    @checks.add(
        "resume",
        "A run that is cut after a round and goes on gives the bits of one that is not.",
        why="That is what a resume promises; what is kept on the object, in a module or in a class is gone then.",
        todo="Keep what the server remembers in the state that on_server returns.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        yield from same_bits(s.plain, s.trial.train_in_two(s.named, "engine=inprocess"), "after a resume")

    @checks.add(
        "processes",
        "Two worker processes give the bits of one process.",
        why="The numbers of a run do not depend on where its clients are.",
        todo="Keep nothing on the object or in a module, and draw from ctx.rng.",
    )
    def find_processes(s: TransformSubject) -> Iterator[str]:
        plain = s.plain
        if in_processes(s.component, s.processes, s.notes):
            yield from same_bits(plain, s.trial.train(s.named, POOL), "in two worker processes")

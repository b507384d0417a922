"""An aggregator in whole runs, against the plain sum."""

from __future__ import annotations

from collections.abc import Iterator

from flctl.errors import FlctlError
from flctl.testing import parts
from flctl.testing.aggregator.subject import AggregatorSubject
from flctl.testing.conformance import Checks
from flctl.testing.runs import POOL, close, finite, in_processes

__all__ = ["add_runs"]

_SLACK = 50
"""Factor by which two models may differ more after two rounds than the sums that they are made of."""


def add_runs(checks: Checks) -> None:
    """Adds the checks that train."""

    @checks.add(
        "trains",
        "A model trained with it equals the model trained with the plain sum, within its tolerance.",
        why="Training is the purpose of an aggregator.",
        todo="Follow the error message; pass configuration that the trial needs as `run=[...]`.",
    )
    def find_trains(s: AggregatorSubject) -> Iterator[str]:
        yield from close(s.own, s.plain, "in contrast to the plain sum,", _SLACK * s.tolerance)

    @checks.add(
        "transparent",
        "If `transparent` is True, `server` and `client` compute the same as adding up the vectors.",
        why="With transparent = True, workers add up clients' vectors, and `server` and `client` are not called.",
        todo="Write transparent = False in a class that extends PlainAggregator and changes server or client.",
    )
    def find_transparent(s: AggregatorSubject) -> Iterator[str]:
        if s.component.transparent:
            by_hand = s.trial.train(s.named, f"engine='{parts.here('Losing')}'")
            yield from close(by_hand, s.own, "in contrast to vectors added up in the worker,", _SLACK * s.tolerance)

    @checks.add(
        "lost",
        "A run continues if clients are lost in a round, or is refused with an FlctlError.",
        why="More than `max_failures` failed clients end a run; up to that number the aggregator sums the other "
        "clients.",
        todo="Use the replies that arrive; a client without a reply has dropped out.",
    )
    def find_lost(s: AggregatorSubject) -> Iterator[str]:
        engine = f"engine={{name: '{parts.here('Losing')}', max_failures: 9, lost: ['%s'], since: 2}}"
        for lost in ("0', '3", "*"):
            try:
                yield from finite(s.trial.train(s.named, engine % lost))
            except FlctlError:
                continue  # a refusal that says why

    @checks.add(
        "processes",
        "Two worker processes and one process train the same model, within its tolerance.",
        why="With workers, vectors arrive from another process, as read-only views of a message.",
        todo="Compute from the values of vectors, message and memory alone.",
    )
    def find_processes(s: AggregatorSubject) -> Iterator[str]:
        if in_processes(s.component, wanted=s.processes, notes=s.notes):
            yield from close(s.trial.train(s.named, POOL), s.own, "in contrast to one process,", _SLACK * s.tolerance)

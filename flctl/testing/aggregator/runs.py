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
        "A model that is trained over it is the one that is trained over the plain sum, within its tolerance.",
        why="It is what an aggregator is for.",
        todo="Follow what is said; `run=[...]` gives the trial what it needs.",
    )
    def find_trains(s: AggregatorSubject) -> Iterator[str]:
        yield from close(s.own, s.plain, "unlike the plain sum's,", _SLACK * s.tolerance)

    @checks.add(
        "transparent",
        "Where it says that it is transparent, its own halves give what adding up the vectors gives.",
        why="transparent = True lets clients' vectors be added up where they train: server and client are not called.",
        todo="Write transparent = False in a class that extends PlainAggregator and changes server or client.",
    )
    def find_transparent(s: AggregatorSubject) -> Iterator[str]:
        if s.component.transparent:
            by_hand = s.trial.train(s.named, f"engine='{parts.here('Losing')}'")
            yield from close(by_hand, s.own, "unlike vectors added up where clients train,", _SLACK * s.tolerance)

    @checks.add(
        "lost",
        "A run goes on when clients are lost in a round, or is refused with an FlctlError.",
        why="More than `max_failures` end a run; up to there the aggregator adds what is left.",
        todo="Read the replies that there are; a client that is absent dropped out.",
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
        "Clients in two worker processes give the model that clients in one process give, within its tolerance.",
        why="Another process may take a client's next message; all that it has is the memory.",
        todo="Keep everything that the next phase needs in the memory that client returns.",
    )
    def find_processes(s: AggregatorSubject) -> Iterator[str]:
        if in_processes(s.component, s.processes, s.notes):
            yield from close(s.trial.train(s.named, POOL), s.own, "unlike in one process,", _SLACK * s.tolerance)

"""An aggregator in whole runs, against the plain sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flctl.errors import FlctlError
from flctl.testing import parts
from flctl.testing.aggregator_subject import AggregatorSubject
from flctl.testing.conformance import Checks
from flctl.testing.runs import POOL, finite, in_processes
from flctl.testing.trial import TrialResult

__all__ = ["add_runs"]

_SLACK = 50
"""How much further two models may be apart after two rounds than the sums that they are made of."""


def add_runs(checks: Checks) -> None:
    """Adds the checks that train."""

    @checks.add(
        "trains",
        "A model that is trained over it is the one that is trained over the plain sum, within its tolerance.",
        why="It is what an aggregator is for.",
        todo="Follow what is said; `run=[...]` gives the trial what it needs.",
    )
    def find_trains(s: AggregatorSubject) -> Iterator[str]:
        yield from _close(s, s.own, s.plain, "over the plain sum")

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
            yield from _close(s, s.trial.train(s.named, POOL), s.own, "in one process")


def _close(s: AggregatorSubject, one: TrialResult, other: TrialResult, what: str) -> Iterator[str]:
    scale = float(np.abs(other.weights).max())
    apart = float(np.abs(one.weights - other.weights).max())
    if not apart <= _SLACK * s.tolerance * scale:
        yield f"weights differ by up to {apart:.3g} from those {what}, where the largest is {scale:.3g}"

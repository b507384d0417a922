"""A strategy in whole runs: with buffers, lost clients, a hiding sum, worker processes, and after a resume."""

from __future__ import annotations

from collections.abc import Iterator

from flctl.errors import FlctlError
from flctl.testing import parts
from flctl.testing.conformance import Checks
from flctl.testing.runs import close, finite
from flctl.testing.strategy.subject import StrategySubject
from flctl.testing.trained_subject import add_reproducible

__all__ = ["add_runs"]


def add_runs(checks: Checks) -> None:
    """Adds the checks that train."""
    _add_buffers(checks)
    _add_lost(checks)
    _add_hidden(checks)
    add_reproducible(
        checks,
        resume_todo="Keep server state in `state`, and client state in `memory`.",
        processes_todo="Keep no state on the object or in a module, and draw random numbers by name: "
        "flctl.rng(seed, ...).",
    )


def _add_buffers(checks: Checks) -> None:
    @checks.add(
        "buffers",
        "It trains a model with buffers (batch normalisation).",
        why="Running means and counters are a second vector, `buffers`, in params, sends, report and step.",
        todo="Build on super(): sends, report and step of flctl.Strategy handle the buffers.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        result = s.trial.train(s.named, f"model={parts.here('normed')}", "engine=inprocess")
        yield from finite(result)


def _add_lost(checks: Checks) -> None:
    @checks.add(
        "lost",
        "A run continues if some or all clients of a round are lost.",
        why="More than `max_failures` failed clients end a run; up to that number the strategy uses the other clients.",
        todo="Let step and combine accept any subset of the cohort; raise an FlctlError if a subset breaks the "
        "strategy's guarantee.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        engine = f"engine={{name: '{parts.here('Losing')}', max_failures: 9, lost: ['%s'], since: 2}}"
        for lost in ("0', '3", "*"):
            try:
                result = s.trial.train(s.named, engine % lost)
            except FlctlError as error:
                if s.make().reads_each and lost != "*":
                    continue  # too few for what it promises
                raise error
            yield from finite(result)


def _add_hidden(checks: Checks) -> None:
    @checks.add(
        "hidden",
        "It trains the same model if the server sees only the sum (unless it overrides combine).",
        why="Secure aggregation reveals only the sum; metrics and single updates stay with the clients.",
        todo="Read everything that the server needs from `aggregate`: send it as one more vector in report.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        if not s.make().reads_each:
            hidden = s.trial.train(s.named, f"aggregator={parts.here('Hiding')}", "engine=inprocess")
            yield from close(hidden, s.plain, "under an aggregator that hides")

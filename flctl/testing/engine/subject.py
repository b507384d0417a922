"""An engine under test, opened on trial runs, and the expected replies of its clients."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.engines.engine import Engine
from flctl.engines.inprocess import InProcessEngine
from flctl.testing.runs import chosen
from flctl.testing.trial import Trial, TrialResult
from flctl.types import ClientId, Reply, Request, RoundPlan

if TYPE_CHECKING:
    from flctl.run.run import Run

__all__ = ["Answers", "EngineSubject", "left_behind", "within"]

Answers = list[tuple[ClientId, Any]]
"""Value that an engine yields, of any type."""
PATIENCE = 120.0
"""Seconds after which something counts as hanging; also on a machine that is busy."""
GRACE = 5.0
"""Seconds in which what an engine started may end after it was left."""


class EngineSubject:
    """An engine class with its options; what it needs is made when a check first asks for it."""

    def __init__(self, component: type[Engine], options: Mapping[str, Any], trial: Trial) -> None:
        self.component = component
        self.options = options
        self.trial = trial
        self.notes: list[str] = []

    def make(self) -> Engine:
        """A new object with the options."""
        return self.component.from_options(dict(self.options))

    @cached_property
    def named(self) -> str:
        """The override that names the engine, with two workers where it has any."""
        return chosen("engine", self.component, self.options, self.trial.directory)

    def run(self, *overrides: str) -> Run:
        """A run that this engine may be opened on."""
        return self.trial.prepare(self.named, "engine.workers=2", *overrides)[0]

    def train(self) -> TrialResult:
        """A whole run with the engine."""
        return self.trial.train(self.named, "engine.workers=2")

    @cached_property
    def trained(self) -> TrialResult:
        """The first of those."""
        return self.train()

    @contextmanager
    def opened(self, *overrides: str) -> Iterator[tuple[Engine, Run]]:
        """The engine, open on a trial run."""
        run = self.run(*overrides)
        with self.make().open(run) as engine:
            yield engine, run

    @cached_property
    def expected(self) -> Mapping[ClientId, bytes]:
        """Returns each client's reply to `requests`: its message, as an engine in one process gives it."""
        run = self.run()
        with InProcessEngine().open(run) as engine:
            answers = dict(engine.exchange(requests(run)))
        return {client: answer.message for client, answer in answers.items() if isinstance(answer, Reply)}


def plan_of(run: Run) -> RoundPlan:
    """The first round's plan."""
    from flctl.server.rounds import Rounds

    rounds = Rounds(run, InProcessEngine())
    return rounds.plan(rounds.initial())


def requests(run: Run, round_number: int = 1) -> dict[ClientId, Request]:
    """A request to train for each client, as the first round makes it."""
    plan = plan_of(run)
    work = dataclasses.replace(plan.work, round=round_number)
    return {client: Request(round_number, work, b"") for client in plan.cohort}


def within(seconds: float, action: Callable[[], None]) -> BaseException | None:
    """Returns the exception that an action raises. Raises TimeoutError if it does not end."""
    outcome: list[BaseException | None] = []

    def attempt() -> None:
        try:
            action()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"it did not end within {seconds:g} s")
    return outcome[0]


def left_behind(before: frozenset[Any]) -> frozenset[Any]:
    """The threads and processes that are there and were not before, after a moment to end in."""
    deadline = time.monotonic() + GRACE
    while (left := alive() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def alive() -> frozenset[Any]:
    """The threads of this process that keep it running, and its child processes as far as the system tells."""
    threads = {f"thread {thread.name}" for thread in threading.enumerate() if not thread.daemon}
    children: set[str] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        children |= {f"process {pid}" for pid in task.read_text().split() if not _is_zombie(pid)}
    return frozenset(threads | children)


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True  # it ended just now

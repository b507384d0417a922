"""The common base of strategies, transforms and aggregators under test, and the checks that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flctl.component import Component
from flctl.testing.calls import Replay, purity
from flctl.testing.conformance import Checks
from flctl.testing.runs import POOL, in_processes, same_bits
from flctl.testing.trial import Trial, TrialResult

__all__ = ["PurityTexts", "TrainedSubject", "add_purity", "add_reproducible"]

Kind = TypeVar("Kind", bound=Component)


class TrainedSubject(Generic[Kind]):
    """A component class with its options; runs are made when a check first asks for them."""

    def __init__(self, component: type[Kind], options: Mapping[str, Any], trial: Trial, *, processes: bool) -> None:
        self.component = component
        self.options = options
        self.trial = trial
        self.processes = processes
        self.notes: list[str] = []

    def make(self) -> Kind:
        """Returns a new object with the options."""
        return self.component.from_options(dict(self.options))


class _Replayed(Protocol):
    """A subject whose methods were called again, and whose trial run finished."""

    component: type[Any]
    trial: Trial
    processes: bool
    notes: list[str]

    @property
    def named(self) -> str:
        """The override that names the component."""

    @property
    def plain(self) -> TrialResult:
        """The trial run in one process."""

    @property
    def replays(self) -> Sequence[Replay]:
        """Calls of each method made again."""


@dataclass(frozen=True, slots=True)
class PurityTexts:
    """The sentences of the purity checks that differ between kinds of component."""

    inputs: str
    inputs_why: str
    inputs_todo: str
    self_todo: str
    deterministic: str
    deterministic_todo: str


def add_purity(checks: Checks, texts: PurityTexts) -> None:
    """Adds the checks that methods change neither their arguments nor the object, and are deterministic."""

    @checks.add("inputs", texts.inputs, why=texts.inputs_why, todo=texts.inputs_todo)
    def find_inputs(s: _Replayed) -> Iterator[str]:
        yield from purity(s.replays)[0]

    @checks.add(
        "self",
        "No method keeps state on the object.",
        why="One object serves all clients, and each worker process has its own object: state on it differs between "
        "processes, and is lost after a kill.",
        todo=texts.self_todo,
    )
    def find_self(s: _Replayed) -> Iterator[str]:
        yield from purity(s.replays)[1]

    @checks.add(
        "deterministic",
        texts.deterministic,
        why="Runs are reproducible on any engine and after any kill only if results depend on arguments and seed "
        "alone.",
        todo=texts.deterministic_todo,
    )
    def find_deterministic(s: _Replayed) -> Iterator[str]:
        yield from purity(s.replays)[2]


def add_reproducible(checks: Checks, *, resume_todo: str, processes_todo: str) -> None:
    """Adds the checks that a resumed run, and a run in two processes, equal the run in one process."""

    @checks.add(
        "resume",
        "A run that is interrupted and resumed equals an uninterrupted run, bit for bit.",
        why="A resume promises this; state on the object, in a module or in a class is lost.",
        todo=resume_todo,
    )
    def find_resumed(s: _Replayed) -> Iterator[str]:
        yield from same_bits(s.plain, s.trial.train_in_two(s.named, "engine=inprocess"), "after a resume")

    @checks.add(
        "processes",
        "Two worker processes and one process give the same results, bit for bit.",
        why="Results of a run must not depend on the process that trains a client.",
        todo=processes_todo,
    )
    def find_processes(s: _Replayed) -> Iterator[str]:
        plain = s.plain
        if in_processes(s.component, wanted=s.processes, notes=s.notes):
            yield from same_bits(plain, s.trial.train(s.named, POOL), "in two worker processes")

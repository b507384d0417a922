"""Conformance checks: their definition, running them over a component, and the error with all findings."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flctl.errors import FlctlError, suggest
from flctl.testing.randomness import global_seed, threads_kept

__all__ = ["Check", "Checks", "Conformance", "ConformanceError", "Failed", "UnaskedError", "conform", "said"]

Find = Callable[[Any], Iterable[str]]
_SHOWN = 4
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Check:
    """One property: what holds for a component that has it, why that matters, and what to do where it does not.

    `find` yields a sentence for each way in which a subject lacks it. `blocks`: nothing later can be asked of a
    subject that lacks it.
    """

    id: str
    claim: str
    why: str
    todo: str
    find: Find
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A check that a component failed, and what was found."""

    check: Check
    found: tuple[str, ...]

    def __str__(self) -> str:
        shown = [*self.found[:_SHOWN], *([f"and {len(self.found) - _SHOWN} more"] if len(self.found) > _SHOWN else [])]
        lines = [_wrapped("found: ", text) for text in shown]
        return "\n".join([*lines, _wrapped("why:   ", self.check.why), _wrapped("do:    ", self.check.todo)])


@dataclass(frozen=True, slots=True)
class Conformance:
    """A component that passed: the ids of the checks that ran, and notes on what could not be asked of it."""

    subject: str
    checks: tuple[str, ...]
    notes: tuple[str, ...] = ()


class UnaskedError(Exception):
    """A check cannot be asked because of what another one found already."""


class ConformanceError(AssertionError):
    """A component that breaks its contract: every failure with what was found, why it matters and what to do."""

    def __init__(self, subject: str, failures: Sequence[Failed], asked: int) -> None:
        self.subject = subject
        self.failures = tuple(failures)
        checks = "check" if asked == 1 else "checks"
        parts = [f"{subject} fails {len(failures)} of {asked} {checks}"]
        parts += [f"{n}. {failed.check.claim}  [{failed.check.id}]\n{failed}" for n, failed in enumerate(failures, 1)]
        super().__init__("\n\n".join(parts))


@dataclass
class Checks:
    """The checks of one kind, in the order in which they run."""

    checks: list[Check] = field(default_factory=list)

    def add(self, id: str, claim: str, *, why: str, todo: str, blocks: bool = False) -> Callable[[Find], Find]:  # noqa: A002
        """A decorator that adds a check; the function yields what is wrong with a subject."""

        def register(find: Find) -> Find:
            self.checks.append(Check(id, claim, why, todo, find, blocks))
            return find

        return register

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(check.id for check in self.checks)


def conform(checks: Checks, subject: Any, title: str, skip: Collection[str] = ()) -> Conformance:
    """Runs the checks. Raises ConformanceError with all that failed, ValueError for an unknown id in `skip`."""
    for name in skip:
        if name not in checks.ids:
            raise ValueError(f"there is no check '{name}' to skip. {suggest(name, checks.ids) or ''}".rstrip())
    with global_seed(0), threads_kept():
        asked, failures = _run([check for check in checks.checks if check.id not in skip], subject)
    if failures:
        raise ConformanceError(title, failures, len(asked))
    return Conformance(title, tuple(asked), tuple(getattr(subject, "notes", ())))


def _run(checks: Sequence[Check], subject: Any) -> tuple[list[str], list[Failed]]:
    asked: list[str] = []
    failures: list[Failed] = []
    for check in checks:
        try:
            found = tuple(_found(check, subject))
        except UnaskedError:
            continue
        asked.append(check.id)
        if found:
            failures.append(Failed(check, found))
            if check.blocks:
                break
    return asked, failures


def _found(check: Check, subject: Any) -> Iterator[str]:
    """Yields the findings of a check; an exception, or a component's own exit, is a finding too."""
    try:
        yield from dict.fromkeys(check.find(subject))
    except UnaskedError:
        raise
    except (Exception, SystemExit) as error:
        yield said(error)


def said(error: BaseException) -> str:
    """An exception as a finding: what it says and where it was raised."""
    if isinstance(error, FlctlError):
        return f"{type(error).__name__}: {error.message}" + (f" ({error.hint})" if error.hint else "")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    text = f"{type(error).__name__}: {error}{where}"
    return f"{text}: it changed an argument in place" if "read-only" in str(error) else text


def _wrapped(label: str, text: str) -> str:
    indent = "   "
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent + label,
        subsequent_indent=indent + " " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )

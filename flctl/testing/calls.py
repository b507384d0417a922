"""Calls recorded in a run and repeated on copies, to find methods that depend on more than their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flctl.testing.randomness import global_seed
from flctl.testing.values import copied, difference

__all__ = ["Call", "Replay", "purity", "recorder", "replay"]

Make = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method: its arguments and its result, as they were then."""

    method: str
    arguments: tuple[Any, ...]
    result: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of repeated calls: arguments that changed, state kept on `self`, and differences of results."""

    method: str
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    differs: str | None


def recorder(component: type[Any], methods: Iterator[str] | list[str], calls: list[Call]) -> type[Any]:
    """A subclass that does what `component` does and appends each call of `methods` to `calls`."""
    body: dict[str, Any] = {"__doc__": component.__doc__, "name": component.name}
    for method in methods:
        body[method] = _recording(method, getattr(component, method), calls)
    return type(component.__name__, (component,), body)


def _recording(method: str, original: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
    @functools.wraps(original)
    def recorded(self: Any, *arguments: Any, **named: Any) -> Any:
        before = copied(arguments + tuple(named.values()))
        result = original(self, *arguments, **named)
        calls.append(Call(method, before, copied(result)))
        return result

    return recorded


def purity(replays: Sequence[Replay]) -> tuple[list[str], list[str], list[str]]:
    """Yields sentences on replays: arguments that were changed, state kept on `self`, results that differ."""
    changed = [f"{done.method} changed {found}" for done in replays for found in done.changed]
    kept = [f"{done.method} stored self.{name}" for done in replays for name in done.kept]
    return changed, kept, [f"{done.method}: {done.differs}" for done in replays if done.differs]


def replay(make: Make, call: Call, may_change: tuple[int, ...] = ()) -> Replay:
    """Makes a call again: twice on one new object and once on another, under different global random states.

    `may_change` are the positions of arguments that the method may overwrite.
    """
    component, arguments = make(), copied(call.arguments)
    before = remembered(component)
    with global_seed(1):
        first = copied(getattr(component, call.method)(*arguments))
    changed = [
        f"argument {position + 1}: {found}"
        for position, (old, new) in enumerate(zip(call.arguments, arguments, strict=True))
        if position not in may_change and (found := difference(old, new))
    ]
    kept = [name for name, value in remembered(component).items() if difference(before.get(name, _ABSENT), value)]
    with global_seed(2):
        second = copied(getattr(component, call.method)(*copied(call.arguments)))
    with global_seed(3):
        third = getattr(make(), call.method)(*copied(call.arguments))
    return Replay(call.method, tuple(changed), tuple(kept), difference(first, second) or difference(first, third))


_ABSENT = object()


def remembered(component: Any) -> Mapping[str, Any]:
    """A copy of what an object keeps beside its options; what a cached property keeps follows from those."""
    kept = {name: value for name, value in vars(component).items() if name != "config" and not _cached(component, name)}
    return {name: copied(value) for name, value in kept.items()}


def _cached(component: Any, name: str) -> bool:
    return isinstance(getattr(type(component), name, None), functools.cached_property)

"""An update's way through the transforms: out of a client in their order, and back on the server in reverse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.transform import ClientContext, ServerContext, SharedContext, StartContext, Transform
from flctl.errors import DivergenceError, FlctlError, IncompatibleError, PluginError
from flctl.types import Aggregate, Arrays, ClientUpdate, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["Pipeline", "begun", "check_memory", "told"]

Broadcasts = Mapping[str, Arrays]
Context = Callable[[str], ServerContext]
"""A transform's context for a client's update, by the transform's name."""
Vectors = dict[str, np.ndarray[Any, np.dtype[Any]]]
_Step = tuple[str, Transform, ClientUpdate, ClientUpdate, ClientContext]


@dataclass(frozen=True)
class Pipeline:
    """The transforms of a run, in config order.

    `layout` is what the strategy sends. `each` says that the server takes each client's update for itself, to look at
    it: then it decodes there what it can, rather than once on the sum.
    """

    transforms: Mapping[str, Transform]
    layout: Layout
    seed: int
    each: bool

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """What each transform is given."""
        return dict(zip(self.transforms, self._passed, strict=False))

    @property
    def sent(self) -> Layout:
        """What leaves a client."""
        return self._passed[-1]

    @property
    def arrived(self) -> Layout:
        """What the server adds up, or looks at."""
        return self._passed[self._first]

    @property
    def decodes(self) -> bool:
        """Whether each client's message is decoded."""
        return self._first < len(self.transforms)

    @cached_property
    def memory_layout(self) -> Layout:
        """What each client keeps for the transforms, under `transform.NAME/`."""
        return {
            _prefix(name) + vector: length
            for name, transform in self.transforms.items()
            for vector, length in transform.remembers(self.layouts[name]).items()
        }

    @cached_property
    def _passed(self) -> list[Layout]:
        """The layout before each transform, and after the last."""
        passed = [self.layout]
        for transform in self.transforms.values():
            passed.append(transform.sends(passed[-1]))
        return passed

    @cached_property
    def _first(self) -> int:
        """The first transform whose codes are decoded client by client; those before it are decoded on the sum."""
        chain = list(self.transforms.values())
        if not self.each:
            return next((place for place, transform in enumerate(chain) if transform.decodes_each), len(chain))
        # Who works on the sum finds it as it left the clients, but for its own code.
        last = max((place for place, transform in enumerate(chain) if _works_on_sum(transform)), default=0)
        return last if not chain or chain[last].encodes or not _works_on_sum(chain[last]) else last + 1

    def check(self) -> None:
        """Raises IncompatibleError where something else follows a transform whose codes do not add up."""
        before: str | None = None
        for name, transform in self.transforms.items():
            codes = transform.decodes_each
            if before is not None and (not codes or _works_on_sum(transform)):
                raise IncompatibleError(
                    f"transform '{name}' works on vectors that add up, and what '{before}' before it sends does not",
                    hint=f"Put '{name}' before '{before}'.",
                )
            before = before or (name if codes else None)

    def shared(self, name: str, number: int, broadcasts: Broadcasts) -> SharedContext:
        """What both sides know of the transform `name` in a round."""
        seed = seeds.derive(self.seed, "round", number, "shared", name)
        return SharedContext(number, self.layouts[name], broadcasts.get(name, {}), seed)

    def shared_by_all(self, work: Work) -> Mapping[str, SharedContext]:
        """What both sides know of each transform in the round of `work`."""
        return {name: self.shared(name, work.round, work.transforms) for name in self.transforms}

    def send(self, update: ClientUpdate, work: Work, memory: Arrays) -> tuple[ClientUpdate, Vectors]:
        """Client: what becomes of an update, and what the client keeps of it."""
        steps: list[_Step] = []
        for name, transform in self.transforms.items():
            ctx = self._client_context(update.client_id, name, work, memory)
            given, update = update, transform.on_client(update, ctx)
            steps.append((name, transform, given, update, ctx))
        return update, dict(self._kept(steps, update.arrays))

    def arrive(self, update: ClientUpdate, shared: Mapping[str, SharedContext], context: Context) -> ClientUpdate:
        """Server, per client: what arrives is seen by those that look at it, and decoded."""
        for place, (name, transform) in reversed(list(enumerate(self.transforms.items()))):
            if transform.judges_each:
                update = transform.on_arrival(update, context(name))
            if place >= self._first and transform.encodes:
                update = dataclasses.replace(update, arrays=transform.decode(update.arrays, shared[name]))
        return update

    @property
    def summed_codes(self) -> list[str]:
        """The transforms whose codes are decoded only once they are added up."""
        return [name for name, transform in list(self.transforms.items())[: self._first] if transform.encodes]

    def read(self, update: ClientUpdate, work: Work) -> ClientUpdate:
        """What a client's message says, decoded as far as the server decodes single ones."""
        for name, transform in self._coders[::-1]:
            decoded = transform.decode(update.arrays, self.shared(name, work.round, work.transforms))
            update = dataclasses.replace(update, arrays=decoded)
        return update

    def encoded(self, update: ClientUpdate, work: Work) -> ClientUpdate:
        """The message that `read` would make this of, from a client that keeps to codes and to nothing else: clipping
        and the like are left out, and it remembers nothing."""
        weight = update.weight
        for name, transform in self._coders:
            memory = arrays.zeros(transform.remembers(self.layouts[name]))
            kept = {_prefix(name) + vector: values for vector, values in memory.items()}
            update = transform.on_client(update, self._client_context(update.client_id, name, work, kept))
        return dataclasses.replace(update, weight=weight)

    @property
    def _coders(self) -> list[tuple[str, Transform]]:
        """The transforms whose codes are decoded client by client."""
        return [
            (name, transform) for name, transform in list(self.transforms.items())[self._first :] if transform.encodes
        ]

    def decoded(self, aggregate: Aggregate, name: str, shared: SharedContext) -> Aggregate:
        """Server, once a round: the sum, decoded where the transform's codes were added up as they were."""
        if not self.transforms[name].encodes or list(self.transforms).index(name) >= self._first:
            return aggregate
        return dataclasses.replace(aggregate, arrays=self.transforms[name].decode(aggregate.arrays, shared))

    def _client_context(self, client: str, name: str, work: Work, memory: Arrays) -> ClientContext:
        prefix = _prefix(name)
        return ClientContext(
            round=work.round,
            client_id=client,
            broadcast=work.transforms.get(name, {}),
            rng=seeds.rng(self.seed, "round", work.round, "client", client, name),
            memory={vector[len(prefix) :]: values for vector, values in memory.items() if vector.startswith(prefix)},
            shared=self.shared(name, work.round, work.transforms),
        )

    def _kept(self, steps: list[_Step], arrived: Arrays) -> Iterator[tuple[str, Any]]:
        """What each transform keeps, from the last to the first; `arrived` is what left the client."""
        left = sum(bool(transform.remembers(self.layouts[name])) for name, transform, *_ in steps)
        for name, transform, given, sent, ctx in reversed(steps):
            if not left:
                return
            if transform.encodes:
                arrived = transform.decode(arrived, ctx.shared)
            layout = transform.remembers(self.layouts[name])
            if layout:
                left -= 1
                kept = transform.keeps(given, sent, arrived, ctx)
                check_memory(f"transform '{name}'", kept, layout)
                yield from ((_prefix(name) + vector, values) for vector, values in kept.items())


def begun(run: RunInfo, number: int, states: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """The transforms' states with which round `number` starts. Raises PrivacyBudgetError where one ends the run."""
    started: dict[str, Arrays] = {}
    for name, transform in run.transforms.items():
        state = transform.begin(states[name], StartContext(number, run))
        wrong = arrays.misfit(state)
        if wrong:
            raise PluginError(f"round {number}: transform '{name}' began with a state with {wrong}")
        started[name] = arrays.frozen(state)
    return started


def told(run: RunInfo, states: Mapping[str, Arrays], finished: bool = False) -> dict[str, dict[str, float | str]]:
    """Transform -> what it says of the run so far; transforms that say nothing are left out."""
    said = {name: dict(transform.tells(states[name], run, finished)) for name, transform in run.transforms.items()}
    return {name: values for name, values in said.items() if values}


def check_memory(whose: str, remember: Arrays, layout: Layout) -> None:
    """Raises FlctlError for a memory that is laid out otherwise, DivergenceError for one that is not finite."""
    wrong = arrays.misfit(remember, layout)
    if wrong:
        raise FlctlError(f"{whose} wants to remember {wrong}")
    if not arrays.is_finite(remember):
        raise DivergenceError(f"{whose} wants to remember values NaN or infinite")


def _works_on_sum(transform: Transform) -> bool:
    return type(transform).on_server is not Transform.on_server


def _prefix(name: str) -> str:
    return f"transform.{name}/"

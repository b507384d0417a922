"""The pipeline of transforms: applied on clients in config order, and undone on the server in reverse."""

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
from flctl.types import Aggregate, Arrays, ClientUpdate, FloatArray, IntArray, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["Pipeline", "begin_round", "check_memory", "transform_statements"]

Broadcasts = Mapping[str, Arrays]
Context = Callable[[str], ServerContext]
"""Returns a transform's context for a client's update, by the transform's name."""
Vectors = dict[str, np.ndarray[Any, np.dtype[Any]]]
_Step = tuple[str, Transform, ClientUpdate, ClientUpdate, ClientContext]


@dataclass(frozen=True)
class Pipeline:
    """The transforms of a run, in config order.

    `layout` is that of the strategy's update. `keep_individual` is True if a component on the server reads single
    updates. The server then decodes each update as far as it can, rather than decoding the sum once.
    """

    transforms: Mapping[str, Transform]
    layout: Layout
    seed: int
    keep_individual: bool

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """Transform -> layout of its input."""
        return dict(zip(self.transforms, self._passed, strict=False))

    @property
    def sent(self) -> Layout:
        """Layout of an update as it leaves the client."""
        return self._passed[-1]

    @property
    def arrived(self) -> Layout:
        """Layout of an update as the server adds it up or reads it."""
        return self._passed[self._first]

    @property
    def decodes(self) -> bool:
        """True if the server decodes each client's message."""
        return self._first < len(self.transforms)

    def weigh(self, rows: IntArray) -> FloatArray:
        """Returns the weights [K] of clients by their training rows [K], counting at least one row each."""
        weights = np.maximum(rows, 1).astype(np.float64)
        for transform in self.transforms.values():
            weights = transform.weigh(weights)
        return weights

    @cached_property
    def memory_layout(self) -> Layout:
        """Layout of the client memory of all transforms, each under `transform.NAME/`."""
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
        """Index of the first transform whose codes are decoded client by client; those before it are decoded on the
        sum."""
        chain = list(self.transforms.values())
        if not self.keep_individual:
            return next((position for position, transform in enumerate(chain) if transform.decodes_each), len(chain))
        # A transform that works on the sum must find it as it left the clients, but with its own code decoded.
        last = max((position for position, transform in enumerate(chain) if _works_on_sum(transform)), default=0)
        return last if not chain or chain[last].encodes or not _works_on_sum(chain[last]) else last + 1

    def check(self) -> None:
        """Raises IncompatibleError if a transform needs vectors that add up, and one before it sends codes that do
        not."""
        before: str | None = None
        for name, transform in self.transforms.items():
            codes = transform.decodes_each
            if before is not None and (not codes or _works_on_sum(transform)):
                raise IncompatibleError(
                    f"transform '{name}' works on sums, and the codes of '{before}' before it cannot be added up",
                    hint=f"Put '{name}' before '{before}'.",
                )
            before = before or (name if codes else None)

    def shared(self, name: str, round_number: int, broadcasts: Broadcasts) -> SharedContext:
        """Returns what both sides know of the transform `name` in a round."""
        seed = seeds.derive(self.seed, "round", round_number, "shared", name)
        return SharedContext(round_number, self.layouts[name], broadcasts.get(name, {}), seed)

    def shared_by_all(self, work: Work) -> Mapping[str, SharedContext]:
        """Returns what both sides know of each transform in the round of `work`."""
        return {name: self.shared(name, work.round, work.transforms) for name in self.transforms}

    def send(self, update: ClientUpdate, work: Work, memory: Arrays) -> tuple[ClientUpdate, Vectors]:
        """Client: applies all transforms. Returns the update to send and the memory to keep."""
        steps: list[_Step] = []
        for name, transform in self.transforms.items():
            ctx = self._client_context(update.client_id, name, work, memory)
            given, update = update, transform.on_client(update, ctx)
            steps.append((name, transform, given, update, ctx))
        return update, dict(self._kept(steps, update.arrays))

    def arrive(self, update: ClientUpdate, shared: Mapping[str, SharedContext], context: Context) -> ClientUpdate:
        """Server, per client, in reverse order: transforms that read single updates see the update, and its code is
        decoded."""
        for position, (name, transform) in reversed(list(enumerate(self.transforms.items()))):
            if transform.judges_each:
                update = transform.on_arrival(update, context(name))
            if position >= self._first and transform.encodes:
                update = dataclasses.replace(update, arrays=transform.decode(update.arrays, shared[name]))
        return update

    @property
    def summed_codes(self) -> list[str]:
        """Names of the transforms whose codes are added up and decoded once, on the sum."""
        return [name for name, transform in list(self.transforms.items())[: self._first] if transform.encodes]

    def read(self, update: ClientUpdate, work: Work) -> ClientUpdate:
        """Decodes a client's message as far as the server decodes single messages."""
        for name, transform in self._coders[::-1]:
            decoded = transform.decode(update.arrays, self.shared(name, work.round, work.transforms))
            update = dataclasses.replace(update, arrays=decoded)
        return update

    def encoded(self, update: ClientUpdate, work: Work) -> ClientUpdate:
        """Encodes a forged update with the encoding transforms only (no clipping, noise or error feedback). Inverse of
        `read`."""
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
        """Server, once a round: decodes the sum for the transform `name`, if its codes were added up undecoded."""
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
        """Yields the memory of each transform, from the last to the first; `arrived` is the update as it left the
        client."""
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


def begin_round(run: RunInfo, round_number: int, states: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """Begins a round on the server: returns the transforms' states. Raises PrivacyBudgetError if one ends the run."""
    started: dict[str, Arrays] = {}
    for name, transform in run.transforms.items():
        state = transform.begin(states[name], StartContext(round_number, run))
        wrong = arrays.misfit(state)
        if wrong:
            raise PluginError(f"round {round_number}: `begin` of transform '{name}' returned a state with {wrong}")
        started[name] = arrays.frozen(state)
    return started


def transform_statements(
    run: RunInfo, states: Mapping[str, Arrays], *, finished: bool = False
) -> dict[str, dict[str, float | str]]:
    """Returns transform -> its entries for the round's report, or for the summary if `finished`; empty ones are left
    out."""
    said = {name: dict(transform.tells(states[name], run, finished)) for name, transform in run.transforms.items()}
    return {name: values for name, values in said.items() if values}


def check_memory(whose: str, remember: Arrays, layout: Layout) -> None:
    """Raises FlctlError if client memory has the wrong layout, DivergenceError if it is not finite."""
    wrong = arrays.misfit(remember, layout)
    if wrong:
        raise FlctlError(f"{whose} returned client memory with {wrong}")
    if not arrays.is_finite(remember):
        raise DivergenceError(f"{whose} returned client memory with values NaN or infinite")


def _works_on_sum(transform: Transform) -> bool:
    return type(transform).on_server is not Transform.on_server


def _prefix(name: str) -> str:
    return f"transform.{name}/"

"""An aggregator's protocol played without an engine: every message, every loss and every lie is the script's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flctl.algorithms.aggregator import AggregationContext, Aggregator, Phase
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateIntake
from flctl.algorithms.transform import ClientContext
from flctl.errors import FlctlError, counted
from flctl.testing.values import copied, difference
from flctl.types import Aggregate, Arrays, ClientId, Layout

__all__ = ["MOST_PHASES", "Exchange", "Played", "Script", "play"]

MOST_PHASES = 64
Make = Callable[[], Aggregator]


@dataclass(frozen=True, slots=True)
class Script:
    """Faults to inject. `lose(phase, client)`: the client does not answer; `tamper(phase, client, reply)`: the reply
    that arrives instead; `repeat`: clients whose replies arrive twice. Phases count from 0."""

    lose: Callable[[int, ClientId], bool] = lambda phase, client: False
    tamper: Callable[[int, ClientId, bytes], bytes] = lambda phase, client, reply: reply
    repeat: frozenset[ClientId] = frozenset()


HONEST = Script()


@dataclass(slots=True)
class Exchange:
    """Record of one phase: whether clients trained, the clients asked, and the replies that arrived."""

    trains: bool
    asked: tuple[ClientId, ...]
    replies: dict[ClientId, bytes] = field(default_factory=dict)
    raised: dict[ClientId, BaseException] = field(default_factory=dict)


@dataclass(slots=True)
class Played:
    """Record of a round: its aggregate, or the error that refused it; its exchanges; breaches of the contract; and
    vectors that clients changed in place."""

    result: Aggregate | None = None
    refused: FlctlError | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def trained(self) -> frozenset[ClientId]:
        """Clients that answered a phase that trains."""
        return frozenset(client for phase in self.exchanges if phase.trains for client in phase.replies)


def play(make: Make, vectors: Mapping[ClientId, Arrays], layout: Layout, script: Script = HONEST) -> Played:
    """Plays one round among the clients of `vectors`; each message is taken by a new object, as another process may.

    Raises what the server's half raises, unless it is an FlctlError.
    """
    return _Round(make, vectors, layout, script).play()


class _Round:
    def __init__(self, make: Make, vectors: Mapping[ClientId, Arrays], layout: Layout, script: Script) -> None:
        self.make, self.vectors, self.script = make, vectors, script
        self.memories: dict[ClientId, bytes] = {}
        self.played = Played()
        self.total = SumAccumulator(UpdateIntake(layout))
        self.ctx = AggregationContext(1, tuple(vectors), layout, lambda: self.total)

    def play(self) -> Played:
        server = self.make().server(self.ctx)
        replies: Iterator[tuple[ClientId, bytes]] | None = None
        try:
            for _ in range(MOST_PHASES):
                phase = server.send(replies)  # type: ignore[arg-type]  # a generator that has not started takes None
                if not self._is_sound(phase):
                    return self.played
                replies = self._answers(phase)
            self.played.faults.append(f"the server does not end within {counted(MOST_PHASES, 'phase')}")
        except StopIteration as finished:
            self._finish(finished.value)
        except FlctlError as error:
            self.played.refused = error
        return self.played

    def _is_sound(self, phase: Any) -> bool:
        if not isinstance(phase, Phase):
            self.played.faults.append(f"the server yielded {type(phase).__name__}, expected a Phase")
            return False
        strangers = [client for client in phase.messages if client not in self.vectors]
        if strangers:
            self.played.faults.append(f"the server has messages for {strangers[:3]}, which are not in the cohort")
        if not all(isinstance(message, bytes) for message in phase.messages.values()):
            self.played.faults.append("the server's messages are not all bytes")
        return len(self.played.faults) == 0

    def _finish(self, value: Any) -> None:
        if isinstance(value, Aggregate):
            self.played.result = value
        else:
            self.played.faults.append(f"the server returned {type(value).__name__}, expected an Aggregate")

    def _answers(self, phase: Phase) -> Iterator[tuple[ClientId, bytes]]:
        exchange_number = len(self.played.exchanges)
        exchange = Exchange(phase.trains, tuple(phase.messages))
        self.played.exchanges.append(exchange)
        arrived: list[tuple[ClientId, bytes]] = []
        for client in (client for client in self.vectors if client in phase.messages):
            if self.script.lose(exchange_number, client):
                continue
            reply = self._answer(client, phase, exchange)
            if reply is None:
                continue
            reply = self.script.tamper(exchange_number, client, reply)
            exchange.replies[client] = reply
            arrived += [(client, reply)] * (2 if client in self.script.repeat else 1)
        return iter(arrived)

    def _answer(self, client: ClientId, phase: Phase, exchange: Exchange) -> bytes | None:
        vector = copied(dict(self.vectors[client])) if phase.trains else None
        ctx = ClientContext(1, client, {}, np.random.default_rng([len(self.played.exchanges), int(client)]))
        try:
            message, before = phase.messages[client], self.memories.get(client, b"")
            given: tuple[Any, Any] = self.make().client(before, message, vector, ctx)
        except Exception as error:  # a client that raises is one that does not answer
            exchange.raised[client] = error
            return None
        changed = vector is not None and difference(dict(self.vectors[client]), vector)
        self.played.changed += [changed] if changed else []
        if [type(part) for part in given] != [bytes, bytes]:
            found = " and ".join(type(part).__name__ for part in given)
            self.played.faults.append(f"client returned {found}, expected memory and reply as bytes")
            return None
        self.memories[client], reply = given
        return bytes(reply)

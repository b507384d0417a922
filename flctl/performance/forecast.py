"""Forecast of a run before it starts: the facts behind `flctl train --explain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flctl import machine
from flctl.engines.engine import Engine
from flctl.engines.footprint import Footprint, RoundShape, footprint, round_shape
from flctl.executors.choice import TOGETHER, obstacles
from flctl.executors.per_example_steps import BY_ROWS
from flctl.performance.duration import DurationEstimate, estimate_duration
from flctl.run.run import Run
from flctl.server.rounds import Rounds
from flctl.server.state import State
from flctl.simulation.message_sizes import up_bytes
from flctl.types import SelectionSplit
from flctl.wire import messages

__all__ = ["Chunks", "Forecast", "MessageSizes", "Selection", "forecast"]


@dataclass(frozen=True, slots=True)
class Chunks:
    """One round: its number, the clients selected, the chunks in which they are asked, and the largest number of
    clients that train side by side at once (1: one after the other). Bytes are of the largest chunk."""

    round: int
    clients: int
    rows: int
    chunks: int
    fewest: int
    most: int
    at_once: int
    largest_bytes: int


@dataclass(frozen=True, slots=True)
class MessageSizes:
    """Bytes of a round's encoded messages: to a client, and from it if known beforehand (an aggregator with a protocol
    of its own determines it)."""

    down: int
    up: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows by which the best round is picked and early stopping decides: their split (None without such rows), their
    number, and the metric."""

    split: SelectionSplit | None
    rows: int
    metric: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """Executor, engine, memory, traffic and duration of a run, determined before it is trained.

    `others` maps each rejected executor to the reason; `readers` are the components that read single updates;
    `by_rows`: the executor computes per-example gradients; `attack` is the simulated attack, if any; `asked` is the
    configured engine.
    """

    executor: str
    why: str
    others: Mapping[str, str]
    alone: bool
    by_rows: bool
    asked: str
    engine: str
    workers: int
    rounds: int
    readers: tuple[str, ...]
    attack: Mapping[str, Any] | None
    selection: Selection
    chunks: Chunks
    budget: int
    memory: Footprint
    traffic: MessageSizes
    duration: DurationEstimate

    def data(self) -> dict[str, Any]:
        """Returns the facts as in `--json`; docs/cli.md describes the keys."""
        free = self.memory.free
        return {
            "executor": {"name": self.executor, "why": self.why, "others": dict(self.others)},
            "engine": {"name": self.engine, "asked": self.asked, "workers": self.workers},
            "reads_each": list(self.readers),
            "attack": self.attack,
            "selection": asdict(self.selection),
            "round": {**asdict(self.chunks), "one_client_a_chunk": self.alone},
            "memory": {
                "budget": self.budget,
                "chunk": self.memory.chunk,
                "worker": self.memory.worker if self.memory.workers else None,
                "workers": self.memory.workers * self.memory.worker,
                "server": self.memory.server,
                "updates": self.memory.updates,
                "needed": self.memory.needed,
                "free": free.bytes if free else None,
                "fits": self.memory.fits if free else None,
            },
            "traffic": {
                "down": self.traffic.down,
                "up": self.traffic.up,
                "round_down": self.traffic.down * self.chunks.clients,
                "round_up": None if self.traffic.up is None else self.traffic.up * self.chunks.clients,
            },
            "estimate": {
                "rounds": self.rounds,
                "cores": self.duration.cores,
                "seconds": {str(workers): round(seconds, 4) for workers, seconds in self.duration.seconds.items()},
                "advice": self.duration.advice,
            },
        }


def forecast(run: Run, engine: type[Engine], state: State | None = None) -> Forecast:
    """Returns the forecast of `run` on `engine`, from its start or from `state`; nothing is trained or written.

    Raises the errors that training would raise if components of the run cannot plan a round.
    """
    rounds = Rounds(run, engine.from_options(dict(run.config.engine.options)))
    state = state or rounds.initial()
    shape = round_shape(run, state.round + 1)
    found = footprint(run, engine, shape, machine.free_memory())
    left = max(run.config.rounds - state.round, 0)
    chosen, execution = run.config.engine, run.execution
    return Forecast(
        executor=execution.executor,
        why=execution.why,
        others=_others(run),
        alone=execution.alone,
        by_rows=execution.executor in BY_ROWS,
        asked=chosen.name,
        engine=engine.name,
        workers=chosen.workers,
        rounds=left,
        readers=_readers(run),
        attack=_attack(run),
        selection=_selection(run),
        chunks=_chunks(run, shape, found),
        budget=execution.memory,
        memory=found,
        traffic=_traffic(run, rounds, state),
        duration=estimate_duration(run, engine, shape, found, machine.cores(), left),
    )


def _others(run: Run) -> dict[str, str]:
    """Returns the reasons for which the other executors were not chosen."""
    chosen, asked = run.execution.executor, run.config.engine.executor
    able = f"could train it too; {chosen} is {'preferred' if asked == 'auto' else 'asked for'}"
    found = obstacles(run, run.build_model(), run.task())
    return {name: reason or able for name, reason in found.items() if name != chosen}


def _readers(run: Run) -> tuple[str, ...]:
    transforms = (f"transform '{name}'" for name, transform in run.transforms.items() if transform.judges_each)
    attacks = [f"attack '{run.config.attack.name}'"] if run.adversary.on_updates else []
    return (*([f"strategy '{run.strategy.name}'"] if run.strategy.reads_each else []), *transforms, *attacks)


def _attack(run: Run) -> dict[str, Any] | None:
    """Returns the simulated attack, and the number of malicious clients."""
    if not run.adversary.attacks:
        return None
    chosen, malicious = run.config.attack, len(run.adversary.malicious)
    return {"name": chosen.name, "malicious": malicious, "clients": run.partition.clients, "since": chosen.since}


def _selection(run: Run) -> Selection:
    metric = run.metric
    return Selection(run.selection_split, run.scored.manifest.rows.central_test, metric)


def _chunks(run: Run, shape: RoundShape, found: Footprint) -> Chunks:
    together = run.execution.executor in TOGETHER
    blocks = (run.execution.blocks(shape.sizes[positions]) for positions in shape.chunks if together)
    counts = [len(positions) for positions in shape.chunks]
    return Chunks(
        round=shape.round_number,
        clients=len(shape.sizes),
        rows=int(shape.sizes.sum()),
        chunks=len(counts),
        fewest=min(counts, default=0),
        most=max(counts, default=0),
        at_once=max((len(positions) for block in blocks for positions in block), default=1),
        largest_bytes=found.chunk,
    )


def _traffic(run: Run, rounds: Rounds, state: State) -> MessageSizes:
    work = rounds.plan(state).work
    up = up_bytes(run, work) if run.aggregator.transparent else None
    return MessageSizes(messages.work_size(work), up)

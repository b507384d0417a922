"""Estimates of a run's memory from shapes alone, and the refusal of a run that cannot fit.

Estimates are in bytes and follow the chunks as they will be cut, not the budget `engine.memory` that bounds them.
Constants were measured with torch 2.13 on Linux.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flctl.engines.engine import Engine
from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.errors import ConfigError, counted
from flctl.executors.choice import TOGETHER
from flctl.machine import FreeMemory, free_memory
from flctl.run import cohort as cohorts
from flctl.run.run import Run
from flctl.types import IntArray, Layout

__all__ = ["Footprint", "RoundShape", "footprint", "refuse_too_large", "round_shape", "size_text"]

FLOAT = 4
PROCESS_BYTES = 160 << 20
"""Bytes that a process holds alone once Python, torch and flctl are loaded; pages that all processes share are left
out."""
SERVER_VECTORS = 6
"""Vectors as long as the model that the server keeps: model and state, a message, sums, a step's temporaries."""
MAX_EMPTY_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class RoundShape:
    """One round before it runs: its number, each client's training rows [n], and for each chunk the positions of its
    clients in the cohort."""

    round_number: int
    sizes: IntArray
    chunks: tuple[IntArray, ...]


def round_shape(run: Run, round_number: int = 1) -> RoundShape:
    """Returns round `round_number`, or the first round after it with a client (poisson and trace may leave rounds
    empty)."""
    counts, config = run.partition.counts[:, 0], run.config
    eligible = np.flatnonzero(counts)
    for candidate in range(round_number, round_number + MAX_EMPTY_ROUNDS):
        clients = cohorts.select(run.devices.cohort, eligible, run.partition.client_ids, candidate, config.seed)
        if len(clients):
            round_number = candidate
            break
    sizes = counts[clients]
    return RoundShape(round_number, sizes, tuple(run.execution.chunks(sizes)))


@dataclass(frozen=True, slots=True)
class Footprint:
    """Estimated bytes of a run on this machine. `chunk` is the largest chunk of the round. Each of the `workers`
    processes takes `worker`. `server` is the growth of the server's process, with training if there are no workers;
    `updates` of it are the updates of a cohort that are kept one by one. `fewest` is the smallest `engine.memory` that
    can train the largest client. `free` is None if the system reports no figure."""

    chunk: int
    workers: int
    worker: int
    server: int
    updates: int
    fewest: int
    free: FreeMemory | None

    @property
    def needed(self) -> int:
        """All processes together."""
        return self.server + self.workers * self.worker

    @property
    def fits(self) -> bool:
        """True if the machine has that much memory, as far as is known."""
        return self.free is None or self.needed <= self.free.bytes


def footprint(run: Run, engine: type[Engine], shape: RoundShape, free: FreeMemory | None) -> Footprint:
    """The footprint of a run whose rounds are like `shape`.

    Clients of an engine that is neither in-process nor a pool run elsewhere: only the server counts then.
    """
    execution = run.execution
    update = _bytes(run.update_layout)
    chunk = max((_chunk_bytes(run, shape.sizes[positions]) for positions in shape.chunks), default=0)
    largest = run.partition.counts[:, 0].max(keepdims=True)
    chunk = max(chunk, _chunk_bytes(run, largest))
    reply = max((len(positions) for positions in shape.chunks), default=0) * update if run.takes_each else update
    copies = 2 if run.adversary.on_updates else 1  # as they came, and laid end to end for the attack
    updates = 0 if run.sums else copies * len(shape.sizes) * _bytes(run.pipeline.arrived)
    workers = run.config.engine.workers if issubclass(engine, PoolEngine) else 0
    server = SERVER_VECTORS * _bytes(run.layout) + updates + max(_evaluation_bytes(run), workers * reply)
    return Footprint(
        chunk=chunk,
        workers=workers,
        worker=PROCESS_BYTES + execution.fixed_bytes + chunk,
        server=server + (chunk if issubclass(engine, InProcessEngine) else 0),
        updates=updates,
        fewest=execution.fixed_bytes + _chunk_bytes(run, largest),
        free=free,
    )


def refuse_too_large(run: Run, engine: type[Engine]) -> None:
    """Raises ConfigError where a run needs more memory than this machine has free, before anything of it starts."""
    found = footprint(run, engine, round_shape(run), free_memory())
    if found.free is None or found.fits:
        return
    parts = [f"the server {size_text(found.server)}"]
    if found.workers:
        parts.insert(0, f"{counted(found.workers, 'worker')} {size_text(found.worker)} each")
    needs = f"the run needs about {size_text(found.needed)} of memory ({', '.join(parts)})"
    has = f"{size_text(found.free.bytes)} are {found.free.source}"
    raise ConfigError(f"{needs}, and {has}", hint=_way_out(run, found, found.free.bytes))


def _way_out(run: Run, found: Footprint, free: int) -> str:
    """Returns settings that make the run smaller, most effective first."""
    ways = []
    fitting = (free - found.server) // found.worker
    if found.workers > fitting >= 1:
        ways.append(f"use --workers {fitting} or fewer")
    if found.updates > free // 2:
        ways.append(
            f"sample fewer clients per round (the server keeps {size_text(found.updates)} of individual updates)"
        )
    saved = found.chunk - (found.fewest - run.execution.fixed_bytes)
    if found.needed - max(found.workers, 1) * saved <= free:
        ways.append(f"lower engine.memory (a client needs {size_text(found.fewest)})")
    if not ways:
        ways.append("use fewer workers, a smaller model or a machine with more memory")
    text = ", or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def _chunk_bytes(run: Run, sizes: IntArray) -> int:
    """Returns the bytes for one chunk of clients with these numbers of rows.

    Clients trained together each need the largest client's memory. Clients trained one by one need one client's memory
    plus the updates finished so far. If updates are sent one by one, their rows are added, unless they are the models
    of the one block that trained.
    """
    execution, clients = run.execution, len(sizes)
    rows = clients * _bytes(run.update_layout) if run.takes_each else 0
    need = execution.cost(execution.amounts(sizes))[1]
    if execution.executor not in TOGETHER:
        return int(need.max(initial=0)) + (clients - 1) * _bytes(run.layout) + (rows if clients > 1 else 0)
    blocks = execution.blocks(sizes)
    largest = max((len(positions) * int(need[positions].max()) for positions in blocks), default=0)
    return largest + (rows if execution.executor == "shared" or len(blocks) > 1 else 0)


def _evaluation_bytes(run: Run) -> int:
    """Returns the bytes of one evaluation batch: the outputs of the two neighbouring layers that are widest; 0 if the
    layers are unknown."""
    chain, shape = run.execution.chain, run.partition.shape
    rows = run.scored.manifest.rows.central_test
    shapes = chain.shapes(shape) if chain and rows else None
    if not shapes:
        return 0
    widths = [math.prod(shape), *(math.prod(after) for after in shapes)]
    return (
        FLOAT
        * min(rows, run.config.eval.batch_size)
        * max(width + next_width for width, next_width in pairwise(widths))
    )


def _bytes(layout: Layout) -> int:
    return FLOAT * sum(layout.values())


def size_text(count: int) -> str:
    """Returns a size in words: `410 MiB`, `2.3 GiB`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {name}" if value < 100 else f"{value:,.0f} {name}"
    return f"{count} bytes"

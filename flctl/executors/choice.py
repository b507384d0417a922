"""Choice of the executor that trains a run's clients, and of the clients that train together.

Both follow from the run alone, never from a clock, so a configuration gives the same numbers on every machine. `why`
and `others` record the reasons, for `--explain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import ConfigError
from flctl.executors.batches import step_counts
from flctl.executors.costs import Amounts, Cost, Limits, cut, evenly, shared_cost, single_cost, stacked_cost
from flctl.executors.fused import unsupported
from flctl.executors.layer_chain import Chain, chain_of
from flctl.executors.loss_heads import Head, head_for
from flctl.executors.per_example_gradients import ROW_GRADIENT_BYTES, TOGETHER_BYTES
from flctl.executors.per_example_steps import BY_ROWS, by_rows
from flctl.executors.stacking_trial import stacks, vmap_obstacle
from flctl.types import IntArray, LocalWork

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task


__all__ = ["EXECUTORS", "TOGETHER", "Execution", "choose", "obstacles"]

EXECUTORS = {
    "shared": "clients share their initial weights, and no client's model is built",
    "stacked": "clients stacked along a leading dimension, one batched product for all",
    "fused": "one client after the other, with a hand-written training step",
    "vmap": "clients stacked along a leading dimension, through torch.func.vmap",
    "sequential": "one client after the other, through autograd",
}
"""In order of preference. If a transform makes the local steps, the executor is one of `BY_ROWS`."""
TOGETHER = frozenset({"shared", "stacked", "vmap"})
WORTH_SECONDS = 3.5e-3
"""Estimated seconds of training that a chunk should contain; in smaller chunks the fixed cost of a chunk dominates."""
SHARED_ROWS = 1000
"""Rows of a chunk below which a product with a shared weight is far from a core's peak speed."""
CACHE_BYTES = 8 << 20
"""Bytes that stacked models may take: beyond a core's part of the cache, each step waits for memory."""
MOST_ALONE = 64
VMAP_PARAMETERS = 20_000
"""Parameters beyond which vmap is slower than one client after the other."""
FIXED_VECTORS = 4
"""Model-sized vectors that a process keeps beside its clients': the global model, sums, a message."""


@dataclass(frozen=True)
class Execution:
    """The way in which a run's clients are trained.

    `others` maps each rejected executor to the reason. `alone`: chunks of one client. `memory` bounds a chunk, in bytes
    for each process that trains.
    """

    executor: str
    why: str
    others: Mapping[str, str]
    memory: int
    alone: bool
    parameters: int
    features: int
    local: LocalWork
    adjusts: bool
    pull: float
    chain: Chain | None = field(repr=False)
    head: Head | None = field(repr=False)

    def facts(self) -> dict[str, object]:
        """Returns what the run's record needs beside the configuration to explain its numbers."""
        return {"executor": self.executor, "why": self.why, "alone": self.alone, "memory": self.memory}

    def chunks(self, sizes: IntArray, limits: IntArray | None = None) -> list[IntArray]:
        """Returns the positions of the clients that are asked together, chunk by chunk, for clients of `sizes` rows [n]
        that make at most `limits` [n] steps.

        Stacked clients are grouped by their number of steps, those with the most first; clients trained one after the
        other keep their order.
        """
        if self.alone:
            return [np.array([position]) for position in range(len(sizes))]
        if self.executor not in TOGETHER:
            return self._cut(sizes, np.arange(len(sizes)), Limits(WORTH_SECONDS, 0, 1 << 62, MOST_ALONE), limits)
        rows = SHARED_ROWS if self.executor == "shared" else 0
        order = np.lexsort((-sizes, -self.amounts(sizes, limits).steps))
        return self._cut(sizes, order, Limits(WORTH_SECONDS, rows, 1 << 62, 1 << 31), limits)

    def blocks(self, sizes: IntArray) -> list[IntArray]:
        """Returns the positions of a chunk's clients that train side by side at once, for clients of `sizes` rows [n].
        A block fits the memory and, if each client has a model of its own, the cache."""
        if self.executor not in TOGETHER:
            return [np.arange(len(sizes))]
        budget = max(self.memory - self.fixed_bytes, 1)
        fits = budget if self.executor == "shared" else min(budget, CACHE_BYTES)
        amounts, positions = self.amounts(sizes), np.arange(len(sizes))
        ends = Limits(np.inf, 0, fits, 1 << 31)
        return [positions[start:stop] for start, stop in cut(self.cost(amounts), amounts.rows, ends)]

    def _cut(self, sizes: IntArray, order: IntArray, ends: Limits, limits: IntArray | None) -> list[IntArray]:
        amounts = self.amounts(sizes[order], None if limits is None else limits[order])
        return [order[start:stop] for start, stop in evenly(self.cost(amounts), amounts.rows, ends)]

    def amounts(self, sizes: IntArray, limits: IntArray | None = None) -> Amounts:
        """Returns the work of clients of `sizes` rows [n] in a round, in at most `limits` [n] steps."""
        steps, width, usable = step_counts(sizes, self.local, limits)
        per_epoch = np.maximum(-(-usable // width), 1)
        return Amounts(-(-steps * usable // per_epoch), steps, np.minimum(width, np.maximum(sizes, 1)), self.features)

    def cost(self, amounts: Amounts) -> Cost:
        """Returns (seconds, bytes) of each client."""
        return self._costs[self.executor](amounts)

    @cached_property
    def _costs(self) -> Mapping[str, Callable[[Amounts], Cost]]:
        def stacked(amounts: Amounts) -> Cost:
            return stacked_cost(self.chain, self.parameters, amounts, self.local, adjusts=self.adjusts)

        def single(amounts: Amounts) -> Cost:
            return single_cost(self.parameters, amounts, self.local, adjusts=self.adjusts)

        def row_by_row(amounts: Amounts) -> Cost:
            seconds, size = single(amounts)
            gradient_bytes = ROW_GRADIENT_BYTES * self.parameters
            return seconds, size + np.clip(
                gradient_bytes * amounts.width, gradient_bytes, max(gradient_bytes, TOGETHER_BYTES)
            )

        chain = self.chain
        shared = stacked if chain is None else lambda amounts: shared_cost(chain, amounts)
        together = {"shared": shared, "stacked": stacked, "vmap": stacked}
        return {**together, **dict.fromkeys(("fused", "sequential"), single), **dict.fromkeys(BY_ROWS, row_by_row)}

    @property
    def fixed_bytes(self) -> int:
        """Bytes that a process that trains needs beside its clients'."""
        return FIXED_VECTORS * 4 * self.parameters


def choose(run: RunInfo, model: FlatModel, task: Task) -> Execution:
    """Returns the execution of a run. Raises ConfigError if the executor asked for cannot train it, or no client fits
    into `engine.memory`."""
    asked = run.config.engine.executor
    found = _Candidates(run, model, task)
    if asked == "auto" and run.makes_steps is not None:
        return _by_rows(found)
    for name in EXECUTORS if asked == "auto" else (asked,):
        reason = found.obstacle(name)
        if reason is None:
            why = (
                "the first in order of preference that can train this run"
                if asked == "auto"
                else "set by engine.executor"
            )
            return found.execution(name, f"{EXECUTORS[name]}: {why}")
        found.others[name] = reason
    if asked != "auto":
        fits = found.size(asked) is None
        hint = "Leave engine.executor to auto." if fits else "Raise engine.memory, or leave engine.executor to auto."
        raise ConfigError(f"engine.executor {asked} cannot train this run: {found.others[asked]}", hint=hint)
    raise ConfigError(
        f"a client does not fit into engine.memory: {found.others['sequential']}",
        hint="Raise engine.memory (it applies to each training process), or use a smaller model.",
    )


def _by_rows(found: _Candidates) -> Execution:
    """Returns the execution of a run in which a transform makes the local steps. Raises ConfigError if the largest
    client does not fit, IncompatibleError if per-example gradients are not defined for the model."""
    run = found.run
    name = by_rows(run, found.model, found.task, found.chain)
    found.others |= {other: found.obstacle(other) or "" for other in EXECUTORS}
    reason = found.size(name)
    if reason is not None:
        raise ConfigError(
            f"a client does not fit into engine.memory: {reason}",
            hint="Raise engine.memory (it applies to each training process), or use a smaller model.",
        )
    why = f"{BY_ROWS[name]}: transform '{run.makes_steps}' makes the local steps"
    return replace(found.execution(name, why), alone=True)  # a retried chunk would draw the noise of its steps again


def obstacles(run: RunInfo, model: FlatModel, task: Task) -> dict[str, str | None]:
    """Returns for each executor the reason that it cannot train the run, or None; in order of preference."""
    found = _Candidates(run, model, task)
    return {name: found.obstacle(name) for name in EXECUTORS}


class _Candidates:
    """The executors, and the reasons that exclude them for a run."""

    def __init__(self, run: RunInfo, model: FlatModel, task: Task) -> None:
        self.run, self.model, self.task = run, model, task
        self.chain, self.head = chain_of(model.module), head_for(task)
        self.stages = run.strategy.stages(run.config.local.amount())
        self.local = max((stage.local for stage in self.stages), key=lambda local: (local.epochs, local.steps or 0))
        self.largest = int(run.partition.counts[:, 0].max(initial=0))
        self.others: dict[str, str] = {}

    def execution(self, name: str, why: str) -> Execution:
        """Returns the execution with this executor."""
        engine = self.run.config.engine
        return Execution(
            executor=name,
            why=why,
            others=self.others,
            memory=engine.memory_bytes,
            alone=engine.alone or engine.deadline is not None,
            parameters=self.model.layout["params"],
            features=math.prod(self.run.partition.shape),
            local=self.local,
            adjusts=self.adjusts,
            pull=self.run.strategy.pull,
            chain=self.chain,
            head=self.head,
        )

    def obstacle(self, name: str) -> str | None:
        """Returns the reason that this executor cannot train the run, or None."""
        return self._stepped() or getattr(self, f"_{name}")() or self.size(name)

    def _stepped(self) -> str | None:
        steps = self.run.makes_steps
        return None if steps is None else f"transform '{steps}' needs per-example gradients"

    def _shared(self) -> str | None:
        if self.run.config.engine.alone:
            return "engine.alone: it adds up clients in an order of its own, which sites cannot repeat"
        if self.local.optimizer != "sgd":
            return f"the local optimizer is {self.local.optimizer}, not sgd"
        strategy = self.run.strategy
        if strategy.staged or self.run.division.private:
            return f"strategy '{strategy.name}' trains a personal model on each client"
        if strategy.adjusts_freely:
            return f"strategy '{strategy.name}' adjusts local gradients"
        if strategy.pull and self.local.clip_norm is not None:
            return "local.clip_norm clips the gradient after the proximal term is added"
        return self._dense()

    def _stacked(self) -> str | None:
        return self._dense() or self._adjustable()

    def _dense(self) -> str | None:
        if self.chain is None or not self.chain.dense:
            return "the model is not a plain list of linear layers and activations"
        return self._headed()

    def _headed(self) -> str | None:
        return None if self.head else f"the task is {self.task.name}"

    @property
    def adjusts(self) -> bool:
        """True if gradients are changed in any stage."""
        return any(stage.adjust_of(self.run.strategy) or stage.moves != "all" for stage in self.stages)

    def _adjustable(self) -> str | None:
        tried = (stacks(self.run, adjust) for stage in self.stages if (adjust := stage.adjust_of(self.run.strategy)))
        return next(filter(None, tried), None)

    def _fused(self) -> str | None:
        return unsupported(self.chain, self.head, self.run.partition.shape)

    def _vmap(self) -> str | None:
        parameters = self.model.layout["params"]
        if self.run.config.engine.executor == "auto" and parameters > VMAP_PARAMETERS:
            return f"the model has {parameters:,} parameters; beyond {VMAP_PARAMETERS:,} one client at a time is faster"
        return self._headed() or self._adjustable() or vmap_obstacle(self.run, self.model, self.task)

    def _sequential(self) -> str | None:
        return None

    def size(self, name: str) -> str | None:
        """Returns the reason that the largest client does not fit into memory, or None."""
        execution = self.execution(name, "")
        _, size = execution.cost(execution.amounts(np.array([self.largest])))
        needed = execution.fixed_bytes + int(size[0])
        if needed <= execution.memory:
            return None
        return (
            f"the largest client needs {needed / 2**20:,.0f} MiB, engine.memory is {execution.memory / 2**20:,.0f} MiB"
        )

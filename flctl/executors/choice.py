"""Which executor trains a run's clients, and which clients train together: decided by the run alone, never by a clock.

So a configuration gives the same numbers wherever it runs. `why` and `others` say what decided, for `--explain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl.errors import ConfigError
from flctl.executors.batches import step_counts
from flctl.executors.costs import Amounts, Cost, Limits, cut, evenly, shared_cost, single_cost, stacked_cost
from flctl.executors.fused import unsupported
from flctl.executors.layer_chain import Chain, chain_of
from flctl.executors.loss_heads import Head, head_for
from flctl.executors.per_example_gradients import ROW_GRADIENT_BYTES, TOGETHER_BYTES
from flctl.executors.per_example_steps import BY_ROWS, by_rows
from flctl.executors.stacking_trial import stacks, vmap_obstacle
from flctl.types import LocalWork

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task

Counts = npt.NDArray[np.int64]

__all__ = ["EXECUTORS", "TOGETHER", "Execution", "choose", "obstacles"]

EXECUTORS = {
    "shared": "clients that share their start's weights, whose models are never built",
    "stacked": "clients side by side, one batched product for all",
    "fused": "one client after the other, each step written out by hand",
    "vmap": "clients side by side, through torch.func.vmap",
    "sequential": "one client after the other, through autograd",
}
"""In the order in which they are preferred. Where a transform makes the local steps, it is one of `BY_ROWS`."""
TOGETHER = frozenset({"shared", "stacked", "vmap"})
WORTH_SECONDS = 3.5e-3
"""Estimated training that a chunk is worth: below it, what is done once for a chunk would weigh."""
SHARED_ROWS = 1000
"""Rows below which a product with a shared weight is far from a core's speed."""
CACHE_BYTES = 8 << 20
"""What stacked models may take: beyond a core's part of the cache, each step waits for memory."""
MOST_ALONE = 64
VMAP_PARAMETERS = 20_000
"""Beyond, vmap loses to one client after the other."""
FIXED_VECTORS = 4
"""Vectors as long as the model that a process keeps beside its clients': the global model, sums, a message."""


@dataclass(frozen=True)
class Execution:
    """How a run's clients are trained.

    `others` says of each executor that was not taken why not. `alone`: chunks of one client. `memory` in bytes
    bounds a chunk in each process that trains.
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
        """What the run records: whatever the numbers depend on beside the configuration, and why."""
        return {"executor": self.executor, "why": self.why, "alone": self.alone, "memory": self.memory}

    def chunks(self, sizes: Counts, limits: Counts | None = None) -> list[Counts]:
        """The places of clients with so many rows [n] that are asked together, chunk by chunk; they make at most
        `limits` [n] steps.

        Side by side, clients of alike many steps meet, those with the most first; one after the other, they stay in
        their order.
        """
        if self.alone:
            return [np.array([place]) for place in range(len(sizes))]
        if self.executor not in TOGETHER:
            return self._cut(sizes, np.arange(len(sizes)), Limits(WORTH_SECONDS, 0, 1 << 62, MOST_ALONE), limits)
        rows = SHARED_ROWS if self.executor == "shared" else 0
        order = np.lexsort((-sizes, -self.amounts(sizes, limits).steps))
        return self._cut(sizes, order, Limits(WORTH_SECONDS, rows, 1 << 62, 1 << 31), limits)

    def blocks(self, sizes: Counts) -> list[Counts]:
        """The places of a chunk's clients, with so many rows [n], that train side by side at once: what fits into the
        memory and, where each has a model of its own, into the cache."""
        if self.executor not in TOGETHER:
            return [np.arange(len(sizes))]
        budget = max(self.memory - self.fixed_bytes, 1)
        fits = budget if self.executor == "shared" else min(budget, CACHE_BYTES)
        amounts, places = self.amounts(sizes), np.arange(len(sizes))
        ends = Limits(np.inf, 0, fits, 1 << 31)
        return [places[start:stop] for start, stop in cut(self.cost(amounts), amounts.rows, ends)]

    def _cut(self, sizes: Counts, order: Counts, ends: Limits, limits: Counts | None) -> list[Counts]:
        amounts = self.amounts(sizes[order], None if limits is None else limits[order])
        return [order[start:stop] for start, stop in evenly(self.cost(amounts), amounts.rows, ends)]

    def amounts(self, sizes: npt.NDArray[np.int64], limits: Counts | None = None) -> Amounts:
        """What clients with so many rows [n] do in a round, in at most `limits` [n] steps."""
        steps, width, usable = step_counts(sizes, self.local, limits)
        per_epoch = np.maximum(-(-usable // width), 1)
        return Amounts(-(-steps * usable // per_epoch), steps, np.minimum(width, np.maximum(sizes, 1)), self.features)

    def cost(self, amounts: Amounts) -> Cost:
        """(seconds, bytes) of each client."""
        return self._costs[self.executor](amounts)

    @cached_property
    def _costs(self) -> Mapping[str, Callable[[Amounts], Cost]]:
        def stacked(amounts: Amounts) -> Cost:
            return stacked_cost(self.chain, self.parameters, amounts, self.local, self.adjusts)

        def single(amounts: Amounts) -> Cost:
            return single_cost(self.parameters, amounts, self.local, self.adjusts)

        def row_by_row(amounts: Amounts) -> Cost:
            seconds, size = single(amounts)
            each = ROW_GRADIENT_BYTES * self.parameters
            return seconds, size + np.clip(each * amounts.width, each, max(each, TOGETHER_BYTES))

        chain = self.chain
        shared = stacked if chain is None else lambda amounts: shared_cost(chain, amounts)
        together = {"shared": shared, "stacked": stacked, "vmap": stacked}
        return {**together, **dict.fromkeys(("fused", "sequential"), single), **dict.fromkeys(BY_ROWS, row_by_row)}

    @property
    def fixed_bytes(self) -> int:
        """What a process that trains needs whatever its clients are."""
        return FIXED_VECTORS * 4 * self.parameters


def choose(run: RunInfo, model: FlatModel, task: Task) -> Execution:
    """The execution of a run. Raises ConfigError where the executor that was asked for cannot train it, or where no
    client fits into `engine.memory`."""
    asked = run.config.engine.executor
    found = _Candidates(run, model, task)
    if asked == "auto" and run.makes_steps is not None:
        return _by_rows(found)
    for name in EXECUTORS if asked == "auto" else (asked,):
        reason = found.obstacle(name)
        if reason is None:
            why = "the first that can" if asked == "auto" else "asked for by engine.executor"
            return found.execution(name, f"{EXECUTORS[name]}: {why}")
        found.others[name] = reason
    if asked != "auto":
        hint = "Raise engine.memory, or leave engine.executor to auto."
        raise ConfigError(f"engine.executor {asked} cannot train this run: {found.others[asked]}", hint=hint)
    raise ConfigError(
        f"a client does not fit into engine.memory: {found.others['sequential']}",
        hint="Raise engine.memory (it is for each process that trains), or take a smaller model.",
    )


def _by_rows(found: _Candidates) -> Execution:
    """The execution of a run in which a transform makes the local steps. Raises ConfigError where the largest client
    does not fit, IncompatibleError where rows have no gradients of their own."""
    run = found.run
    name = by_rows(run, found.model, found.task, found.chain)
    found.others |= {other: found.obstacle(other) or "" for other in EXECUTORS}
    reason = found.size(name)
    if reason is not None:
        raise ConfigError(
            f"a client does not fit into engine.memory: {reason}",
            hint="Raise engine.memory (it is for each process that trains), or take a smaller model.",
        )
    why = f"{BY_ROWS[name]}: transform '{run.makes_steps}' makes the local steps"
    return replace(found.execution(name, why), alone=True)  # a client that is asked again would step again


def obstacles(run: RunInfo, model: FlatModel, task: Task) -> dict[str, str | None]:
    """Of each executor why it cannot train the run; None where it can. In the order of preference."""
    found = _Candidates(run, model, task)
    return {name: found.obstacle(name) for name in EXECUTORS}


class _Candidates:
    """The executors, and what keeps a run from each."""

    def __init__(self, run: RunInfo, model: FlatModel, task: Task) -> None:
        self.run, self.model, self.task = run, model, task
        self.chain, self.head = chain_of(model.module), head_for(task)
        self.stages = run.strategy.stages(run.config.local.amount())
        self.local = max((stage.local for stage in self.stages), key=lambda local: (local.epochs, local.steps or 0))
        bounds = run.partition.bounds
        self.largest = int((bounds[:, 1] - bounds[:, 0]).max(initial=0))
        self.others: dict[str, str] = {}

    def execution(self, name: str, why: str) -> Execution:
        """The execution by this executor."""
        engine = self.run.config.engine
        return Execution(
            executor=name,
            why=why,
            others=self.others,
            memory=engine.memory_bytes,
            alone=engine.deadline is not None,
            parameters=self.model.layout["params"],
            features=math.prod(self.run.partition.shape),
            local=self.local,
            adjusts=self.adjusts,
            pull=self.run.strategy.pull,
            chain=self.chain,
            head=self.head,
        )

    def obstacle(self, name: str) -> str | None:
        """Why the run cannot be trained so; None where it can."""
        return self._stepped() or getattr(self, f"_{name}")() or self.size(name)

    def _stepped(self) -> str | None:
        steps = self.run.makes_steps
        return None if steps is None else f"transform '{steps}' needs the gradient of each row by itself"

    def _shared(self) -> str | None:
        if self.local.optimizer != "sgd":
            return f"the local optimizer is {self.local.optimizer}, not sgd"
        strategy = self.run.strategy
        if strategy.staged or self.run.division.private:
            return f"strategy '{strategy.name}' trains models that are each client's own"
        if strategy.adjusts_freely:
            return f"strategy '{strategy.name}' changes the clients' gradients"
        if strategy.pull and self.local.clip_norm is not None:
            return "local.clip_norm bounds a gradient with the pull to the global model in it"
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
        """Whether gradients are changed in any stage."""
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
        """Why the largest client does not fit; None where it does."""
        execution = self.execution(name, "")
        _, size = execution.cost(execution.amounts(np.array([self.largest])))
        needed = execution.fixed_bytes + int(size[0])
        if needed <= execution.memory:
            return None
        return (
            f"the largest client needs {needed / 2**20:,.0f} MiB, engine.memory is {execution.memory / 2**20:,.0f} MiB"
        )

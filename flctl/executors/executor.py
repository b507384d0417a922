"""The executor of a run: trains a chunk of clients in the chosen way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flctl.errors import DivergenceError
from flctl.executors.choice import TOGETHER, Execution
from flctl.executors.costs import low_rank_layers
from flctl.executors.fused import FusedStep
from flctl.executors.initial_gradients import stacked_starts
from flctl.executors.loss_heads import Head, weighted
from flctl.executors.per_example_gradients import RowGradients
from flctl.executors.per_example_steps import BY_ROWS, StepsOf, row_gradients, train_by_rows
from flctl.executors.sequential import Adjust, measure, train
from flctl.executors.shards import Shards
from flctl.executors.shared import Rule, train_shared
from flctl.executors.stacked import ChainGradient, Gradient, train_stacked
from flctl.executors.updates import OneByOne, Updates
from flctl.executors.vmapped import VmapGradient
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import Task
from flctl.types import Arrays, Failure, LocalWork, Start, Trained, Work

__all__ = ["Adjusts", "Executor"]

Adjusts = Callable[[Any], Callable[[Tensor, Tensor], Tensor]]
"""`adjusts(positions) -> adjust`: the strategy's `adjust` for the clients at these positions of the chunk (an array
[K], or one integer). `adjust(grad, params)` is called with [D] for one client, otherwise with the first a of them, [a,
D]."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Training of clients one after the other: the task, and a hand-written step or per-example gradients, if any."""

    task: Task
    fused: FusedStep | None
    by_rows: RowGradients | None


class Executor:
    """Trains chunks of clients from a given model."""

    def __init__(self, execution: Execution, model: FlatModel, task: Task) -> None:
        self.execution, self._model = execution, model
        self._plain = self._way(task, execution.head)

    @property
    def one_by_one(self) -> bool:
        """True if clients train one after the other."""
        return self.execution.executor not in TOGETHER

    def train(self, work: Work, shards: Shards, adjusts: Adjusts | None, steps: StepsOf | None = None) -> Updates:
        """Trains the clients of `shards` by `work`, whose `params` are the same for all or a row [K, L] for each.
        Failed clients are listed in the result's facts. `steps` are the local steps of a transform, if it makes them.
        """
        if self.one_by_one:
            return self._alone(work, shards, adjusts, steps)
        return self._together(_params(work), work.local, shards, adjusts)

    def measure(self, work: Work, shards: Shards, *, gradient: bool) -> list[Start]:
        """Evaluates the model of `work` on all rows of each client."""
        stacked = self._gradient() if gradient and work.params["params"].ndim == 1 else None
        if stacked is not None:
            return list(stacked_starts(_params(work), shards, work.local, stacked, self.execution.features))
        return [self._start(work, shards, position, gradient=gradient) for position in range(len(shards.clients))]

    def _start(self, work: Work, shards: Shards, position: int, *, gradient: bool) -> Start:
        self._model.load(_own(work, position))
        return measure(self._model, self._way_of(shards, position).task, *shards.one(position), gradient=gradient)

    def _way(self, task: Task, head: Head | None) -> _Way:
        name, chain = self.execution.executor, self.execution.chain
        fused = FusedStep(self._model, chain, head) if name == "fused" and chain and head else None
        by_rows = row_gradients(name, self._model, task, chain, head) if name in BY_ROWS else None
        return _Way(task, fused, by_rows)

    def _way_of(self, shards: Shards, position: int) -> _Way:
        """The way in which a client trains: its own if classes are weighted."""
        weights, head = shards.weights(position), self.execution.head
        if weights is None:
            return self._plain
        return self._way(self._plain.task.weighted(weights), None if head is None else weighted(head, weights))

    def _gradient(self) -> Gradient | None:
        """Returns the gradient of stacked clients; None for executors that do not stack."""
        chain, head = self.execution.chain, self.execution.head
        if head is not None and self.execution.executor == "vmap":
            return VmapGradient(self._model, head)
        return ChainGradient(chain, head) if head and chain and self.execution.executor == "stacked" else None

    def _together(self, params: Tensor, local: LocalWork, shards: Shards, adjusts: Adjusts | None) -> Updates:
        gradient = self._gradient()
        if gradient is not None:
            return train_stacked(params, shards, local, gradient, adjusts)
        chain, head = self.execution.chain, self.execution.head
        if head is None or chain is None:
            raise ValueError(f"the executor {self.execution.executor} needs a chain and a head")
        rows = int(self.execution.amounts(shards.sizes, shards.limits).rows.max(initial=0))
        rule = Rule(local, self.execution.pull)
        return train_shared(chain, head, params, shards, rule, low_rank_layers(chain, rows))

    def _alone(self, work: Work, shards: Shards, adjusts: Adjusts | None, steps: StepsOf | None) -> OneByOne:
        done: list[Trained | Failure] = []
        for position in range(len(shards.clients)):
            try:
                done.append(self._one(work, shards, position, None if adjusts is None else adjusts(position), steps))
            except DivergenceError as error:
                done.append(Failure("non-finite", error.message))
        return OneByOne(done, dict(self._model.layout))

    def _one(self, work: Work, shards: Shards, position: int, adjust: Adjust | None, steps: StepsOf | None) -> Trained:
        self._model.load(_own(work, position))
        job, way = shards.job(position, work.local), self._way_of(shards, position)
        if way.by_rows is None:
            return train(self._model, way.task, job, adjust, fused=way.fused)
        if steps is None:
            raise ValueError(f"the executor {self.execution.executor} needs a transform's local steps")
        return train_by_rows(self._model, way.by_rows, job, steps(position), adjust)


def _params(work: Work) -> Tensor:
    return torch.from_numpy(np.array(work.params["params"], np.float32))


def _own(work: Work, position: int) -> Arrays:
    """Returns the model that the client at `position` starts from."""
    return {name: vector[position] if vector.ndim == 2 else vector for name, vector in work.params.items()}

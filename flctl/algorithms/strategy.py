"""The base class of strategies. Its defaults are FedAvg; a strategy overrides only its idea."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.component import Component
from flctl.models.parts import Part
from flctl.types import Aggregate, Arrays, ClientId, ClientUpdate, Layout, LocalWork, Work

if TYPE_CHECKING:
    from torch import Tensor

    from flctl.algorithms.run_info import RunInfo
    from flctl.types import Trained

__all__ = ["Adjust", "Measured", "Stage", "StepContext", "Strategy"]

Measured = Literal["nothing", "loss", "gradient"]
Adjust = Callable[["Tensor", "Tensor", Work, Arrays], "Tensor"]
"""As `Strategy.adjust`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a client's local training, from `start` and with a fresh optimiser.

    `start`: "global" is the model that the server sent, with the client's private parts in place; "personal" is
    `Strategy.personal`; "before" is where the stage before ended. `moves`: which parts of the model move, by gradients
    that are zero elsewhere. `adjust` takes the place of the strategy's.
    """

    local: LocalWork
    start: Literal["global", "personal", "before"] = "global"
    moves: Literal["all", "public", "private"] = "all"
    adjust: Adjust | None = None

    def adjust_of(self, strategy: Strategy) -> Adjust | None:
        """What changes gradients in this stage; None where nothing does."""
        return self.adjust or (strategy.adjust if strategy.adjusts else None)


@dataclass(frozen=True, slots=True)
class StepContext:
    """What `Strategy.step` may look at beside its arguments: the round (from 1), the seed, the `server:` slot, and
    how many clients there are, with how many training rows in all. Clients without rows never take part."""

    round: int
    seed: int
    server: ServerOptimizer
    clients: int
    examples: int


class Strategy(Component):
    """An algorithm: what clients compute, what they send, and what the server makes of the sum.

    State and memory are named flat vectors: `state` is the server's and part of the checkpoint, `memory` one
    client's, kept from one of its rounds to its next. One object serves all clients: keep nothing on `self`.
    """

    server: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the `server:` section that this strategy changes (how presets such as fedadam are made)."""

    local: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the `local:` section that this strategy changes (how fedsgd is made)."""

    measures: ClassVar[Measured] = "nothing"
    """What each client measures of the global model on all its rows, for `report` (`Trained.start`): nothing, its loss,
    or its loss and gradient."""

    takes_partial: ClassVar[bool] = False
    """Whether the update of a client that makes fewer steps than it is asked for counts; else it is dropped."""

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError where this strategy cannot keep its promise."""

    def init(self, params: Arrays) -> Arrays:
        """Server, once: the state before the first round."""
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """Server, each round: extra vectors for the cohort, in `work.extra` (SCAFFOLD's c)."""
        return {}

    def sends(self, layout: Layout) -> Layout:
        """Both sides: name -> length of what an update contains, from the model's layout."""
        sent = {"delta": layout["params"]}
        return {**sent, "buffers": layout["buffers"]} if "buffers" in layout else sent

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: name -> length of what each client keeps from one of its rounds to its next (float32)."""
        return {}

    def first(self, work: Work) -> Arrays:
        """Client, before its first round: what it remembers then. Vectors left out are zeros."""
        return {}

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        """Both sides, once: the names of the parameters and buffers that never leave a client. Each client keeps its
        own from one of its rounds to its next, and begins with the initial model's. On the server, and in `sends`,
        `remembers`, `first` and `report`, the model is what is left; `adjust` and `personal` have all of it."""
        return ()

    def stages(self, local: LocalWork) -> Sequence[Stage]:
        """Client: what local training consists of, for what the server asks of a round. The update is what the first
        stage, and those that go on from it, changed."""
        return (Stage(local),)

    def personal(self, params: Arrays, memory: Arrays) -> Arrays:
        """Client: its own model, to evaluate, and to start a stage from. `params` is the global model with the
        client's private parts in place; both have all of its vectors."""
        return params

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        """Client, each local step: the gradient to use. Elementwise operations only: tensors are [D] for one
        client or [K, D] for stacked ones, and the arrays in `work` and `memory` are tensors here too. This default
        adds `pull` times (w - w_t)."""
        if not self.pull:
            return grad
        anchor: Any = work.params["params"]
        return grad.add(params - anchor, alpha=self.pull)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        """Client, after training: (the update's vectors, its weight, the memory to keep, laid out as `remembers`
        says). The weight is n_k."""
        arrays = {"delta": local.delta["params"]}
        if "buffers" in local.delta:
            arrays["buffers"] = local.delta["buffers"]
        return arrays, float(local.examples), memory

    def combine(self, updates: Sequence[ClientUpdate]) -> Arrays:
        """Server: one value per vector from each client's own update, in client order.

        Overriding it MEANS "I read each client's update", which an aggregator that hides refuses. Names left out
        are averaged by weight. This default is the weighted mean, and is never called in a run: sums stream.
        """
        total = sum(update.weight for update in updates)
        weights = [np.float32(update.weight / total) for update in updates]
        return {
            name: np.sum([w * u.arrays[name] for w, u in zip(weights, updates, strict=True)], axis=0)
            for name in updates[0].arrays
        }

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        """Server: the next model and state. The default hands the mean delta to the `server:` optimiser:
        w <- w + server_lr * sum_k (n_k / n) delta_k (McMahan et al. 2017, Algorithm 1, at server_lr 1)."""
        if aggregate.weight == 0:
            return params, state
        weights, slots = ctx.server.step(params["params"], aggregate.mean("delta"), state)
        new = {**params, "params": weights}
        if "buffers" in params:
            new["buffers"] = params["buffers"] + aggregate.mean("buffers")
        return new, {**state, **slots}

    @property
    def trusted(self) -> Collection[ClientId]:
        """Clients whose rows are the server's own: they are asked in each round, beside the cohort, and a simulated
        attack leaves them honest."""
        return ()

    @property
    def staged(self) -> bool:
        """Whether local training is more than one stage from the global model."""
        return type(self).stages is not Strategy.stages

    @property
    def personalises(self) -> bool:
        """Whether clients have models of their own."""
        own = type(self)
        return own.personal is not Strategy.personal or own.private is not Strategy.private

    @property
    def reports(self) -> bool:
        """Whether clients send something else than how the model changed."""
        return type(self).report is not Strategy.report

    @property
    def pull(self) -> float:
        """Client, each local step: how strongly it is pulled back to the global model that it began with, the mu of
        FedProx. Said so, rather than in `adjust`, plain SGD need not build the clients' models."""
        return 0.0

    @property
    def adjusts(self) -> bool:
        """Whether local gradients are changed."""
        return self.pull != 0 or self.adjusts_freely

    @property
    def adjusts_freely(self) -> bool:
        """Whether local gradients are changed by more than a `pull`."""
        return type(self).adjust is not Strategy.adjust

    @property
    def reads_each(self) -> bool:
        """Whether the server must see each client's update by itself."""
        return type(self).combine is not Strategy.combine

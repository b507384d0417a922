"""The base class of strategies. Its defaults are FedAvg; a strategy overrides only what differs."""

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
"""Signature of `Strategy.adjust`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a client's local training, with a fresh optimiser.

    `start`: "global" is the model that the server sent, with the client's private parameters in place; "personal" is
    `Strategy.personal`; "before" is where the previous stage ended. `moves` selects the parameters that are trained;
    the gradients of the others are zero. `adjust` replaces the strategy's.
    """

    local: LocalWork
    start: Literal["global", "personal", "before"] = "global"
    moves: Literal["all", "public", "private"] = "all"
    adjust: Adjust | None = None

    def adjust_of(self, strategy: Strategy) -> Adjust | None:
        """Returns the function that adjusts gradients in this stage; None if gradients are used as they are."""
        return self.adjust or (strategy.adjust if strategy.adjusts else None)


@dataclass(frozen=True, slots=True)
class StepContext:
    """Inputs of `Strategy.step` beside its arguments: the round (from 1), the seed, the `server:` slot, and the numbers
    of clients and of training rows in all. Clients without rows never take part."""

    round: int
    seed: int
    server: ServerOptimizer
    clients: int
    examples: int


class Strategy(Component):
    """A federated algorithm: local computation, the contents of an update, and the server's step.

    State and memory are named flat vectors: `state` is the server's and part of the checkpoint; `memory` is one
    client's, kept from one of its rounds to the next. One object serves all clients: keep nothing on `self`.

    >>> import numpy as np
    >>> import flctl
    >>> class Median(flctl.Strategy):
    ...     name = "median"
    ...     def combine(self, updates):
    ...         return {"delta": np.median([update.arrays["delta"] for update in updates], axis=0)}
    >>> updates = [flctl.ClientUpdate(f"c{k}", {"delta": np.array([d])}, 1.0) for k, d in enumerate((1.0, 2.0, 90.0))]
    >>> Median().combine(updates)["delta"].tolist()
    [2.0]
    >>> Median().reads_each
    True
    """

    server: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the `server:` section that this strategy changes (used by presets such as fedadam)."""

    local: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the `local:` section that this strategy changes (used by fedsgd)."""

    measures: ClassVar[Measured] = "nothing"
    """Measurement of the global model on all rows of a client before it trains, for `report` (`Trained.start`):
    nothing, the loss, or the loss and its gradient."""

    scale_vector: ClassVar[str | None] = None
    """Name of the vector whose sum scales or divides the step; None if no vector does. Noise on it may reverse the
    step, so privacy mechanisms refuse such a strategy."""

    takes_partial: ClassVar[bool] = False
    """True if the update of a client that makes fewer local steps than asked counts; otherwise it is dropped."""

    def check(self, run: RunInfo) -> None:
        """Before the run: raises IncompatibleError if this strategy cannot run with the other components."""

    def init(self, params: Arrays) -> Arrays:
        """Server, once: returns the state before the first round."""
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """Server, each round: returns extra vectors for the cohort, in `work.extra` (SCAFFOLD's c)."""
        return {}

    def sends(self, layout: Layout) -> Layout:
        """Both sides: returns the layout of an update (name -> length), from the model's layout."""
        sent = {"delta": layout["params"]}
        return {**sent, "buffers": layout["buffers"]} if "buffers" in layout else sent

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: returns the layout (name -> length, float32) of what each client keeps from one of its rounds to
        the next."""
        return {}

    def first(self, work: Work) -> Arrays:
        """Client, before its first round: returns its initial memory. Vectors left out are zeros."""
        return {}

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        """Both sides, once: returns the names of the parameters and buffers that never leave a client. Each client
        starts with the initial model's and keeps its own from round to round. On the server, and in `sends`,
        `remembers`, `first` and `report`, the model is the remaining parameters; `adjust` and `personal` see all of
        them."""
        return ()

    def stages(self, local: LocalWork) -> Sequence[Stage]:
        """Client: returns the stages of local training, for the server's instructions `local`. The update is the change
        made by the first stage and by the stages that continue from it."""
        return (Stage(local),)

    def personal(self, params: Arrays, memory: Arrays) -> Arrays:
        """Client: returns its own model, to evaluate and to start a stage from. `params` is the global model with the
        client's private parameters in place; both have all vectors of the model."""
        return params

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        """Client, each local step: returns the gradient to use. Elementwise operations only: tensors are [D] for one
        client or [K, D] for stacked ones, and the arrays in `work` and `memory` are tensors here too. The default adds
        `pull` times (w - w_t)."""
        if not self.pull:
            return grad
        anchor: Any = work.params["params"]
        return grad.add(params - anchor, alpha=self.pull)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        """Client, after training: returns (the update's vectors, its weight, the memory to keep, laid out as in
        `remembers`). The default weight is n_k, the number of examples."""
        arrays = {"delta": local.delta["params"]}
        if "buffers" in local.delta:
            arrays["buffers"] = local.delta["buffers"]
        return arrays, float(local.examples), memory

    def combine(self, updates: Sequence[ClientUpdate]) -> Arrays:
        """Server: returns one value per vector from the clients' single updates, in client order.

        Overriding it MEANS "I read each client's update", which an aggregator that hides refuses. Names left out are
        averaged by weight. The default is the weighted mean; a run never calls it, because sums are streamed.
        """
        total = sum(update.weight for update in updates)
        weights = [np.float32(update.weight / total) for update in updates]
        return {
            name: np.sum([w * u.arrays[name] for w, u in zip(weights, updates, strict=True)], axis=0)
            for name in updates[0].arrays
        }

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        """Server: returns the next model and state. The default hands the mean delta to the `server:` optimiser: w <- w
        + server_lr * sum_k (n_k / n) delta_k (McMahan et al. 2017, Algorithm 1, at server_lr 1)."""
        if aggregate.weight == 0:
            return params, state
        weights, slots = ctx.server.step(params["params"], aggregate.mean("delta"), state)
        new = {**params, "params": weights}
        if "buffers" in params:
            new["buffers"] = params["buffers"] + aggregate.mean("buffers")
        return new, {**state, **slots}

    @property
    def trusted(self) -> Collection[ClientId]:
        """Clients whose rows belong to the server. They are asked in each round, beside the cohort, and a simulated
        attack leaves them honest."""
        return ()

    @property
    def staged(self) -> bool:
        """True if local training is more than one stage from the global model."""
        return type(self).stages is not Strategy.stages

    @property
    def personalises(self) -> bool:
        """True if clients have models of their own."""
        own = type(self)
        return own.personal is not Strategy.personal or own.private is not Strategy.private

    @property
    def reports(self) -> bool:
        """True if an update is something else than the change of the model."""
        return type(self).report is not Strategy.report

    @property
    def pull(self) -> float:
        """Client, each local step: strength of the pull back to the global model of the round, the mu of FedProx.
        Declared here, rather than in `adjust`, it lets plain SGD run without building the clients' models."""
        return 0.0

    @property
    def adjusts(self) -> bool:
        """True if local gradients are changed."""
        return self.pull != 0 or self.adjusts_freely

    @property
    def adjusts_freely(self) -> bool:
        """True if local gradients are changed by more than a `pull`."""
        return type(self).adjust is not Strategy.adjust

    @property
    def reads_each(self) -> bool:
        """True if the server must see single updates."""
        return type(self).combine is not Strategy.combine

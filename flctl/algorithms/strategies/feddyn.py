"""FedDyn."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from flctl.algorithms.strategy import StepContext, Strategy
from flctl.types import Aggregate, Arrays, Layout, Work

if TYPE_CHECKING:
    from torch import Tensor

    from flctl.types import Trained


class FedDyn(Strategy):
    """Local losses regularised so that their minima agree with the global one (Acar et al. 2021, Algorithm 1).

    Client k minimises L_k(w) - <g_k, w> + alpha/2 ||w - w_t||^2 and keeps g_k <- g_k - alpha delta_k, its gradient
    where it stopped. The server keeps h <- h - (alpha / N) sum_k delta_k, and the next model is w plus the mean delta
    minus h / alpha. As in the paper clients count equally: the objective is the unweighted mean of their losses.
    """

    name = "feddyn"

    class Config(Strategy.Config):
        alpha: float = Field(
            0.1,
            gt=0,
            description="Regularisation coefficient alpha: pull towards the global model. Use small values if losses "
            "are flat.",
        )

    def init(self, params: Arrays) -> Arrays:
        return {"h": np.zeros_like(params["params"])}

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: g_k."""
        return {"gradient": layout["params"]}

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        own: Any = memory["gradient"]  # tensors here
        anchor: Any = work.params["params"]
        return grad.sub_(own).add_(params - anchor, alpha=self.config.alpha)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        arrays, weight, memory = super().report(local, work, memory)
        kept = {"gradient": memory["gradient"] - np.float32(self.config.alpha) * arrays["delta"]}
        return arrays, float(weight > 0), kept

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0:
            return params, state
        alpha, share = np.float32(self.config.alpha), np.float32(aggregate.weight / ctx.clients)
        h = state["h"] - alpha * share * aggregate.mean("delta")
        # `aggregate` holds sums, and `step` divides by the weight: h / alpha is multiplied by it so that it enters
        # undivided.
        delta = aggregate.arrays["delta"] - np.float32(aggregate.weight) * h / alpha
        arrays = {**aggregate.arrays, "delta": delta}
        params, after = super().step(params, dataclasses.replace(aggregate, arrays=arrays), state, ctx)
        return params, {**after, "h": h}

"""MimeLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.local_sgd import require_sgd
from flctl.algorithms.strategy import Measured, StepContext, Strategy
from flctl.types import Aggregate, Arrays, Layout, Work

if TYPE_CHECKING:
    from torch import Tensor

    from flctl.algorithms.run_info import RunInfo
    from flctl.types import Trained


class MimeLite(Strategy):
    """Local steps along the server's momentum, which stays fixed during a round (Karimireddy et al. 2020b, MimeLite).

    Each local step is w <- w - lr ((1 - beta) grad + beta m) with the m that the round started with. Then m <- (1 -
    beta) g + beta m, where g is the mean of the clients' gradients at the global model on all their rows. Clients send
    that gradient beside their delta. The local optimiser must be sgd without momentum.
    """

    name = "mime-lite"
    measures: ClassVar[Measured] = "gradient"

    class Config(Strategy.Config):
        momentum: float = Field(0.9, ge=0, lt=1, description="The server's momentum beta; 0 is FedAvg.")

    def check(self, run: RunInfo) -> None:
        hint = "Set local.optimizer=sgd and leave local.momentum out; strategy.momentum is the server's."
        require_sgd(run, "mime-lite uses the server's momentum in local sgd", hint=hint, momentum=False)

    def init(self, params: Arrays) -> Arrays:
        return {"momentum": np.zeros_like(params["params"])}

    def broadcast(self, state: Arrays) -> Arrays:
        return {"momentum": state["momentum"]}

    def sends(self, layout: Layout) -> Layout:
        return {**super().sends(layout), "gradient": layout["params"]}

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        momentum: Any = work.extra["momentum"]  # a tensor here
        return grad.mul(1 - self.config.momentum).add(momentum, alpha=self.config.momentum)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        arrays, weight, memory = super().report(local, work, memory)
        gradient = local.start.gradient if local.start else None
        return {**arrays, "gradient": np.zeros_like(arrays["delta"]) if gradient is None else gradient}, weight, memory

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0:
            return params, state
        params, after = super().step(params, aggregate, state, ctx)
        beta = np.float32(self.config.momentum)
        return params, {**after, "momentum": beta * state["momentum"] + (1 - beta) * aggregate.mean("gradient")}

"""SCAFFOLD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.local_sgd import require_sgd
from flctl.algorithms.strategy import StepContext, Strategy
from flctl.errors import IncompatibleError
from flctl.types import Aggregate, Arrays, Layout, Work

if TYPE_CHECKING:
    from torch import Tensor

    from flctl.algorithms.run_info import RunInfo
    from flctl.types import Trained


class Scaffold(Strategy):
    """Local steps corrected for client drift by control variates (Karimireddy et al. 2020, option II).

    Each step of client k is w <- w - lr (grad - c_k + c). After K steps it keeps c_k <- c_k - c - delta_k / (K lr), the
    mean of its gradients, and sends the change of c_k. The server moves c by the sum of these changes over all n_k of
    the population, so that c = sum_k (n_k / n) c_k at any time: the control variate of the weighted mean loss, which
    fedavg minimises. `weighted: false` is the paper's, where clients count equally in both, and c = sum_k c_k / N. A
    client that stops early divides by the steps that it made; a client without a step keeps its c_k. The local
    optimiser must be sgd without momentum.
    """

    name = "scaffold"
    takes_partial = True

    class Config(Strategy.Config):
        weighted: bool = Field(True, description="Weight clients by their rows, as in fedavg; off: equal weights.")

    def check(self, run: RunInfo) -> None:
        hint = "Set local.optimizer=sgd and leave local.momentum out; a momentum in `server:` is allowed."
        require_sgd(run, "scaffold computes gradients from the delta of plain sgd", hint=hint, momentum=False)
        if self.config.weighted and run.aggregator.weights_equal:
            raise IncompatibleError(
                f"scaffold weights clients by their rows, and aggregator '{run.aggregator.name}' counts each client "
                "once",
                hint="Set strategy.weighted=false, or allow weights with aggregator.max_weight.",
            )

    def init(self, params: Arrays) -> Arrays:
        return {"control": np.zeros_like(params["params"])}

    def broadcast(self, state: Arrays) -> Arrays:
        return {"control": state["control"]}

    def sends(self, layout: Layout) -> Layout:
        return {**super().sends(layout), "control": layout["params"]}

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: c_k."""
        return {"control": layout["params"]}

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        own: Any = memory["control"]  # tensors here
        common: Any = work.extra["control"]
        return grad.sub_(own).add_(common)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        arrays, weight, memory = super().report(local, work, memory)
        moved = local.steps * work.local.lr
        change = np.zeros_like(arrays["delta"])
        if moved:
            change = arrays["delta"] / np.float32(-moved) - work.extra["control"]
        kept = {"control": memory["control"] + change}
        return {**arrays, "control": change}, weight if self.config.weighted else float(weight > 0), kept

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0:
            return params, state
        params, after = super().step(params, aggregate, state, ctx)
        # Over the population, not the cohort: absent clients keep their c_k, and c must stay the mean of all c_k.
        share = np.float32(aggregate.weight / (ctx.examples if self.config.weighted else ctx.clients))
        return params, {**after, "control": state["control"] + share * aggregate.mean("control")}

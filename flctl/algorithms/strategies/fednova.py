"""FedNova."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from flctl.algorithms.strategies.local_sgd import require_sgd
from flctl.algorithms.strategy import StepContext, Strategy
from flctl.types import Aggregate, Arrays, Layout, LocalWork, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.types import Trained


class FedNova(Strategy):
    """Mean of the deltas per local step, times the mean number of steps (Wang et al. 2020, section 5: FedNova).

    w <- w + tau_eff sum_k p_k delta_k / ||a_k||_1 with p_k = n_k / n and tau_eff = sum_k p_k ||a_k||_1, so that clients
    with more local steps do not pull harder. a_k counts how often each of client k's gradients enters its delta: once
    under plain SGD, more often under momentum (`accumulation`). Both sums are sums over clients, so FedNova works under
    secure aggregation. The local optimiser must be sgd.
    """

    name = "fednova"
    takes_partial = True
    scale_vector = "tau"

    def check(self, run: RunInfo) -> None:
        hint = "Set local.optimizer=sgd; local.momentum is allowed."
        require_sgd(run, "fednova needs local steps that are sums of gradients", hint=hint, momentum=True)

    def sends(self, layout: Layout) -> Layout:
        return {**super().sends(layout), "tau": 1}

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        arrays, weight, memory = super().report(local, work, memory)
        tau = accumulation(local.steps, work.local)
        # Without a step delta is zero: dividing by 1 keeps it zero, where 0 / 0 would be NaN.
        per_step = arrays["delta"] / np.float32(tau or 1.0)
        return {**arrays, "delta": per_step, "tau": np.array([tau], np.float32)}, weight, memory

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0:
            return params, state
        delta = aggregate.arrays["delta"] * aggregate.mean("tau")
        return super().step(
            params, dataclasses.replace(aggregate, arrays={**aggregate.arrays, "delta": delta}), state, ctx
        )


def accumulation(steps: int, local: LocalWork) -> float:
    """Returns ||a||_1 after `steps` steps of SGD: the total number of times that gradients were added to the model.

    Plain: `steps`. With momentum rho a step's gradient is added (1 - rho^r) / (1 - rho) times, r being the number of
    steps from it to the end, itself included; in total (steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho).
    Nesterov's look-ahead adds the gradient once and rho times its momentum: steps + rho times the total above.
    """
    rho = local.momentum
    heavy_ball = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    return steps + rho * heavy_ball if local.nesterov else heavy_ball

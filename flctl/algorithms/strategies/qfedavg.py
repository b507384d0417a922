"""q-FedAvg."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from flctl import arrays
from flctl.algorithms.strategies.local_sgd import require_sgd
from flctl.algorithms.strategy import Measured, StepContext, Strategy
from flctl.types import Aggregate, Arrays, Layout, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.types import Trained

_LEAST = 1e-10
"""Lower bound of a loss, so that F^(q - 1) with q below 1 does not divide by zero."""


class QFedAvg(Strategy):
    """FedAvg in which clients of greater loss count more, for fairness (Li et al. 2020b, Algorithm 2: q-FedAvg).

    w <- w + sum_k n_k F_k^q delta_k / sum_k n_k h_k with F_k the loss of w on all of client k's rows and h_k = F_k^q +
    q F_k^(q-1) ||delta_k||^2 / lr: the paper's Delta_k and h_k over its L = 1 / lr, with `local.lr` as scheduled. The
    paper samples clients by their rows and leaves n_k out; here cohorts are uniform, so n_k is a factor, and q = 0 is
    FedAvg. Both are sums over clients. The local optimiser must be sgd.
    """

    name = "qfedavg"
    measures: ClassVar[Measured] = "loss"
    scale_vector = "h"

    class Config(Strategy.Config):
        q: float = Field(
            0.2,
            ge=0,
            description="Fairness: 0 is FedAvg; large values approach the clients with the largest loss alone.",
        )

    def check(self, run: RunInfo) -> None:
        reason = "qfedavg needs the learning rate of local sgd"
        require_sgd(run, reason, hint="Set local.optimizer=sgd.", momentum=True)

    def sends(self, layout: Layout) -> Layout:
        return {**super().sends(layout), "h": 1}

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        sent, weight, memory = super().report(local, work, memory)
        q, loss = self.config.q, max(local.start.loss if local.start else 0.0, _LEAST)
        squared = arrays.norm({"delta": sent["delta"]}) ** 2
        h = loss**q + q * loss ** (q - 1) * squared / work.local.lr
        return {**sent, "delta": np.float32(loss**q) * sent["delta"], "h": np.array([h], np.float32)}, weight, memory

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0 or aggregate.arrays["h"][0] == 0:
            return params, state
        delta = aggregate.arrays["delta"] / aggregate.mean("h")
        return super().step(
            params, dataclasses.replace(aggregate, arrays={**aggregate.arrays, "delta": delta}), state, ctx
        )

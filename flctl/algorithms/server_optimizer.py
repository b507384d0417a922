"""Server optimisers: apply the mean update as a pseudo-gradient (Reddi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.types import Arrays, ServerOptimizerName

__all__ = ["ServerOptimizer"]

Vector = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """Applies the mean client delta D to the model w; its slots live in the strategy's state under `server.*`.

    sgd: w + lr D (FedAvg at lr 1). momentum: m = momentum m + D; w + lr m (FedAvgM, Hsu et al. 2019, section 4.3).
    adagrad, adam, yogi: Algorithm 2 of Reddi et al. (2021): m = beta_1 m + (1 - beta_1) D, v by the named rule,
    w + lr m / (sqrt(v) + tau). As in the paper, m starts at 0 and v at tau^2, adagrad uses beta_1 = 0, and there is no
    bias correction.
    """

    optimizer: ServerOptimizerName = "sgd"
    lr: float = 1.0
    momentum: float = 0.9
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def step(self, weights: Vector, delta: Vector, state: Arrays) -> tuple[Vector, dict[str, Vector]]:
        """Returns the new weights [D] and the optimiser's slots; other names in `state` are ignored."""
        if self.optimizer == "sgd":
            return weights + weights.dtype.type(self.lr) * delta, {}
        if self.optimizer == "momentum":
            m = np.float32(self.momentum) * _slot(state, "server.m", delta, 0.0) + delta
            return weights + np.float32(self.lr) * m, {"server.m": m}
        return self._adaptive(weights, delta, state)

    def _adaptive(self, weights: Vector, delta: Vector, state: Arrays) -> tuple[Vector, dict[str, Vector]]:
        beta_1 = np.float32(0.0 if self.optimizer == "adagrad" else self.beta_1)
        m = beta_1 * _slot(state, "server.m", delta, 0.0) + (np.float32(1) - beta_1) * delta
        # v starts at tau^2, not 0 (Algorithm 2): without bias correction a small v would inflate the first steps.
        v = self._second_moment(_slot(state, "server.v", delta, self.tau**2), np.square(delta))
        new = weights + np.float32(self.lr) * m / (np.sqrt(v) + np.float32(self.tau))
        return new, {"server.m": m, "server.v": v}

    def _second_moment(self, v: Vector, square: Vector) -> Vector:
        rest = np.float32(1 - self.beta_2)
        if self.optimizer == "adagrad":
            return v + square
        if self.optimizer == "yogi":
            return np.asarray(v - rest * square * np.sign(v - square))
        return np.asarray(np.float32(self.beta_2) * v + rest * square)


def _slot(state: Mapping[str, Vector], name: str, like: Vector, start: float) -> Vector:
    return state[name] if name in state else np.full_like(like, start)

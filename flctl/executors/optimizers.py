"""Local optimisers on flat tensors.

The updates are those of `torch.optim` (equal within float rounding; the tests compare them step by step), without its
import, which takes longer than many short runs. `step` changes `params` and may overwrite `grad`; both are float32 of
one shape, [D] for one client or [K, D] for stacked ones. Later steps of stacked clients may move only the first a < K.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flctl.errors import ConfigError
from flctl.types import LocalWork

__all__ = ["OPTIMIZERS", "Adam", "AdamW", "Optimizer", "Sgd", "optimizer_for"]


class Optimizer:
    """An update rule with its own state; a new one for each client's local training."""

    def __init__(self, local: LocalWork) -> None:
        self.local = local

    def step(self, params: Tensor, grad: Tensor) -> None:
        """Moves `params` by one step along `grad`, in place."""
        raise NotImplementedError


class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum (dampening 0), Nesterov's look-ahead and L2 weight decay."""

    def __init__(self, local: LocalWork) -> None:
        super().__init__(local)
        if local.nesterov and local.momentum <= 0:
            raise ConfigError("local.nesterov needs momentum", hint="Set local.momentum, for example to 0.9.")
        self._velocity: Tensor | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        local = self.local
        if local.weight_decay:
            grad.add_(params, alpha=local.weight_decay)
        params.add_(self._direction(grad) if local.momentum else grad, alpha=-local.lr)

    def _direction(self, grad: Tensor) -> Tensor:
        if self._velocity is None:
            self._velocity = grad.clone()
        else:
            self._velocity = self._velocity[: len(grad)]
            self._velocity.mul_(self.local.momentum).add_(grad)
        return grad.add_(self._velocity, alpha=self.local.momentum) if self.local.nesterov else self._velocity


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1) with L2 weight decay added to the gradient."""

    def __init__(self, local: LocalWork) -> None:
        super().__init__(local)
        self._count = 0
        self._mean: Tensor | None = None
        self._square: Tensor | None = None

    def step(self, params: Tensor, grad: Tensor) -> None:
        local = self.local
        self._decay(params, grad)
        if self._mean is None or self._square is None:
            self._mean, self._square = torch.zeros_like(grad), torch.zeros_like(grad)
        self._mean, self._square = self._mean[: len(grad)], self._square[: len(grad)]
        self._count += 1
        self._mean.lerp_(grad, 1 - local.beta_1)
        self._square.mul_(local.beta_2).addcmul_(grad, grad, value=1 - local.beta_2)
        # The bias corrections are applied to the scale and the step size, which saves two passes over the moments.
        correction = math.sqrt(1 - local.beta_2**self._count)
        scale = torch.sqrt(self._square, out=grad).div_(correction).add_(local.eps)
        params.addcdiv_(self._mean, scale, value=-local.lr / (1 - local.beta_1**self._count))

    def _decay(self, params: Tensor, grad: Tensor) -> None:
        if self.local.weight_decay:
            grad.add_(params, alpha=self.local.weight_decay)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, Algorithm 2)."""

    def _decay(self, params: Tensor, grad: Tensor) -> None:
        if self.local.weight_decay:
            params.mul_(1 - self.local.lr * self.local.weight_decay)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}


def optimizer_for(local: LocalWork) -> Optimizer:
    """Returns a new optimiser. Raises ConfigError for an unknown name or contradictory options."""
    if local.optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer '{local.optimizer}'", hint=f"Known: {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[local.optimizer](local)

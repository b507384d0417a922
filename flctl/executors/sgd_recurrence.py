"""Coefficients of SGD: the weights after each step as a linear combination of the start and the gradients."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from flctl.types import LocalWork

__all__ = ["recurrence"]


@lru_cache(maxsize=16)
def recurrence(local: LocalWork, steps: int, pull: float = 0.0) -> tuple[Tensor, Tensor]:
    """Returns (alpha [S + 1], beta [S + 1, S]) with w_t = alpha_t w0 - lr * sum_j beta_{t, j} g_j for S steps of SGD
    from w0 with gradients g_j; momentum, Nesterov and weight decay as in `optimizers.Sgd`, and `pull` times (w - w0)
    added to each gradient.

    The result is cached: do not change the tensors. SGD is linear in (w0, g_0 ... g_{S-1}), so it is run on the unit
    vectors.
    """
    # float64: the coefficients are products of up to S factors, and are rounded to float32 only once, at the end.
    unit = torch.eye(steps + 1, dtype=torch.float64)
    weights, velocity = unit[0].clone(), torch.zeros(steps + 1, dtype=torch.float64)
    rows = [weights.clone()]
    for step in range(steps):
        grad = unit[step + 1] + local.weight_decay * weights + pull * (weights - unit[0])
        velocity = grad if step == 0 else local.momentum * velocity + grad
        direction = grad + local.momentum * velocity if local.nesterov else velocity
        weights = weights - local.lr * (direction if local.momentum else grad)
        rows.append(weights)
    table = torch.stack(rows)
    return table[:, 0].float(), (table[:, 1:] / -local.lr).float()

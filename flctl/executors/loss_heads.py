"""Loss heads: each row's loss and its gradient in closed form, for one client's outputs or for stacked ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from flctl.models.tasks import Task
from flctl.types import TaskKind

__all__ = ["Head", "head_for", "weighted"]

Head = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`head(outputs [..., n, C], y [..., n]) -> (losses [..., n], grad [..., n, C])`: each row's loss, and its gradient
with respect to the row's outputs, not divided by the number of rows. Averaged over rows the losses are `Task.loss`. y
is as in `Task.loss`, and C is 1 for binary and regression."""


def head_for(task: Task) -> Head | None:
    """Returns the head of a task; None for next-character, whose rows are not examples."""
    return _HEADS.get(task.name)


def weighted(head: Head, weights: Tensor) -> Head:
    """Returns the head of the loss in which each row counts weights[y] times, for weights [classes]."""

    def both(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        losses, grad = head(outputs, y)
        factors = weights[y]
        return losses * factors, grad * factors.unsqueeze(-1)

    return both


def _classification(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logs = functional.log_softmax(outputs, -1)
    codes = y.unsqueeze(-1)
    losses = logs.gather(-1, codes).squeeze(-1).neg()
    chances = logs.exp() if logs.requires_grad else logs.exp_()  # in place would overwrite what autograd still reads
    # d loss / d outputs = softmax(outputs) - one_hot(y).
    return losses, chances.scatter_add_(-1, codes, logs.new_full((), -1.0).expand(codes.shape))


def _binary(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    targets = y.to(outputs.dtype).view(outputs.shape)
    losses = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return losses.view(y.shape), torch.sigmoid(outputs).sub_(targets)


def _regression(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    error = outputs - y.view(outputs.shape)
    return error.square().view(y.shape), error.mul_(2)


_HEADS: dict[TaskKind, Head] = {"classification": _classification, "binary": _binary, "regression": _regression}

"""Tasks: the meaning of a model's outputs, and the loss that training minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from flctl.errors import ConfigError
from flctl.types import PADDING, TaskKind

__all__ = ["Task", "task_for"]


@dataclass(frozen=True, slots=True)
class Task:
    """The loss of one kind of task.

    `target_scale` is the (shift, scale) that takes regression targets back to their own units,
    y = shift + scale * y'; the loss itself is in standardised units.
    """

    name: TaskKind
    target_scale: tuple[float, float]
    _loss: Callable[[Tensor, Tensor], Tensor]

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean loss, a scalar: over examples, or over unpadded characters for next character.

        classification: softmax cross-entropy of logits [n, classes] and codes y [n] int64.
        binary: sigmoid cross-entropy of one logit [n, 1] (or [n]) and y [n] of 0 and 1.
        regression: squared error of [n, 1] (or [n]) and y [n] float32.
        next-character: softmax cross-entropy of logits [n, window, characters] and codes y [n, window] int64,
        -1 where padded; zero when everything is padding.
        """
        return self._loss(outputs, y)

    def weighted(self, weights: Tensor) -> Task:
        """Returns the task whose loss is the mean over rows of weights[y] times the row's loss, for weights [classes].

        Raises ValueError for tasks without classes.
        """
        if self.name not in _ROW_LOSSES:
            raise ValueError(f"task {self.name} has no classes to weigh")
        each = _ROW_LOSSES[self.name]
        return replace(self, _loss=lambda outputs, y: (each(outputs, y) * weights[y]).mean())

    def terms(self, y: Tensor) -> int:
        """Returns the number of terms in the mean of `loss`: examples, or unpadded characters."""
        return int((y != PADDING).sum()) if self.name == "next-character" else len(y)


def task_for(kind: TaskKind, target_scale: tuple[float, float] = (0.0, 1.0)) -> Task:
    """The task of a data set. Raises ConfigError for an unknown kind."""
    if kind not in _LOSSES:
        raise ConfigError(f"unknown task '{kind}'", hint=f"Known: {', '.join(_LOSSES)}.")
    return Task(kind, target_scale, _LOSSES[kind])


def _binary(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs.view(y.shape), y.to(outputs.dtype))


def _regression(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(outputs.view(y.shape), y)


def _next_character(outputs: Tensor, y: Tensor) -> Tensor:
    total = functional.cross_entropy(outputs.flatten(0, 1), y.flatten(), ignore_index=PADDING, reduction="sum")
    return total / (y != PADDING).sum().clamp(min=1)


def _each_binary(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs.view(y.shape), y.to(outputs.dtype), reduction="none")


_ROW_LOSSES: dict[TaskKind, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": partial(functional.cross_entropy, reduction="none"),
    "binary": _each_binary,
}
_LOSSES: dict[TaskKind, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": torch.nn.functional.cross_entropy,
    "binary": _binary,
    "regression": _regression,
    "next-character": _next_character,
}

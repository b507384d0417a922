"""Sequential execution, the reference: one client after another through autograd, each from the model it is given.

A result depends on the arguments alone: the model's values, the rows, the work and the key. It does not depend on the
clients trained before, or on the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flctl.errors import DivergenceError
from flctl.executors.batches import batches, module_seed
from flctl.executors.optimizers import Optimizer, optimizer_for
from flctl.executors.shards import LocalJob
from flctl.models.flat_model import FlatModel, tensor
from flctl.models.tasks import Task
from flctl.types import LocalWork, Start, Trained

if TYPE_CHECKING:
    from flctl.executors.fused import FusedStep

__all__ = [
    "CLIP_EPS",
    "Adjust",
    "clip",
    "is_plain",
    "measure",
    "not_finite",
    "single_thread",
    "train",
]

_ROWS = 1000
"""Rows that are evaluated at once."""

Adjust = Callable[[Tensor, Tensor], Tensor]
"""`adjust(grad, params) -> grad` on flat tensors [D], called at each step before clipping. It may change `grad` in
place and must not change `params`; its result may be overwritten."""

CLIP_EPS = 1e-6
"""Added to a gradient's norm before the division, as in `torch.nn.utils.clip_grad_norm_`."""


def single_thread() -> None:
    """Restricts this process to one thread, so that sums have one order; called once by a process that trains."""
    torch.set_num_threads(1)


def train(
    model: FlatModel,
    task: Task,
    job: LocalJob,
    adjust: Adjust | None = None,
    *,
    fused: FusedStep | None = None,
) -> Trained:
    """Trains the model in place on one shard, and returns the change.

    One step is g = gradient of the batch's mean loss; g = adjust(g, w); g scaled to a norm of at most `clip_norm`; then
    the optimiser's update. (A strategy's term is part of the loss that is minimised, so it is clipped with it.) The
    optimiser starts fresh. The job's key determines the module's own randomness (dropout) and the order of the rows in
    each epoch (`batches.batches`). `fused` replaces autograd. An empty shard changes nothing.

    Raises DivergenceError as soon as the loss, or at the end the model, is not finite; the model's values are then
    undefined.
    """
    model.module.train()
    torch.default_generator.manual_seed(module_seed(job.key))
    local, inputs, targets = job.local, tensor(job.x), tensor(job.y)
    before, step = model.read(), _step(model, task, local, adjust, fused)
    total, terms, steps = 0.0, 0, 0
    for rows in batches(len(inputs), local, job.key, job.most):
        index = torch.from_numpy(rows)
        target = targets.index_select(0, index)
        value, count = step(inputs.index_select(0, index), target), task.terms(target)
        steps, total, terms = steps + 1, total + value * count, terms + count
        if not math.isfinite(value):
            raise not_finite(f"the training loss is {value}", steps, local)
    delta = _difference(model.read(), before)
    if not all(np.isfinite(vector).all() for vector in delta.values()):
        raise not_finite("the model is not finite", steps, local)
    return Trained(delta, total / max(terms, 1), len(inputs) if steps else 0, steps)


def measure(
    model: FlatModel, task: Task, x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], *, gradient: bool
) -> Start:
    """Returns the loss, and the gradient if asked for, on rows x [n, ...], y [n] or [n, window]. Does not change the
    model. 0 and zeros without rows."""
    model.module.eval()
    inputs, targets = tensor(x), tensor(y)
    total, terms, summed = 0.0, 0, torch.zeros_like(model.params)
    with torch.set_grad_enabled(gradient):
        for start in range(0, len(inputs), _ROWS):
            target = targets[start : start + _ROWS]
            loss, count = task.loss(model.module(inputs[start : start + _ROWS]), target), task.terms(target)
            total, terms = total + loss.item() * count, terms + count
            if gradient:
                summed.add_(model.gradient(loss), alpha=count)
    return Start(total / max(terms, 1), summed.div_(max(terms, 1)).numpy() if gradient else None)


def is_plain(local: LocalWork, adjust: object) -> bool:
    """Returns True if a step moves each coordinate by -lr times its gradient, and nothing else."""
    more = local.momentum or local.weight_decay or local.clip_norm is not None or adjust is not None
    return local.optimizer == "sgd" and not more


Step = Callable[[Tensor, Tensor], float]
"""`step(x, y) -> loss`: makes one step on a batch, and returns the mean loss before it."""


def _step(model: FlatModel, task: Task, local: LocalWork, adjust: Adjust | None, fused: FusedStep | None) -> Step:
    """Returns the training step. A plain SGD step never builds the flat gradient; the values are the same."""
    if is_plain(local, adjust):
        return partial(_plain_step, model, task, local.lr) if fused is None else partial(fused.descend, lr=local.lr)
    gradient = partial(_gradient, model, task) if fused is None else fused.gradient
    return _FlatStep(model, local, optimizer_for(local), adjust, gradient)


def _plain_step(model: FlatModel, task: Task, lr: float, x: Tensor, y: Tensor) -> float:
    loss = task.loss(model.module(x), y)
    torch._foreach_add_(model.values, model.gradients(loss), alpha=-lr)
    return loss.item()


def _gradient(model: FlatModel, task: Task, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    loss = task.loss(model.module(x), y)
    return model.gradient(loss), loss.item()


@dataclass(frozen=True, slots=True)
class _FlatStep:
    """A step on the flat gradient: adjusted, clipped, then applied by the optimiser."""

    model: FlatModel
    local: LocalWork
    optimizer: Optimizer
    adjust: Adjust | None
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, float]]

    def __call__(self, x: Tensor, y: Tensor) -> float:
        grad, loss = self.gradient(x, y)
        if self.adjust is not None:
            grad = self.adjust(grad, self.model.params)
        clip(grad, self.local.clip_norm)
        self.optimizer.step(self.model.params, grad)
        return loss


def clip(grad: Tensor, norm: float | None) -> None:
    """Scales a gradient [D] to a norm of at most `norm`, in place; None leaves it as it is."""
    if norm is not None:
        grad.mul_((norm / (torch.linalg.vector_norm(grad) + CLIP_EPS)).clamp_(max=1.0))


def _difference(
    after: dict[str, npt.NDArray[np.float32]], before: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    for name in after:
        after[name] -= before[name]
    return after


def not_finite(what: str, step: int, local: LocalWork) -> DivergenceError:
    """Returns the error for local training whose values stopped being finite by step `step`."""
    return DivergenceError(
        f"{what} at local step {step} (optimizer {local.optimizer}, learning rate {local.lr:g})",
        hint="Lower local.lr, or set local.clip_norm.",
    )

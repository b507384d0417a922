"""Trial of a model: does the loss of a row depend on the row and the parameters alone?

If it does not, the gradient of a row changes with the rows before it in the batch: dropout masks follow the generator,
which each row moves on. One row more then changes the gradients of all later rows, and no clipping norm of single
rows bounds what it moves the sum by.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flctl.models.flat_model import FlatModel
from flctl.models.tasks import Task

__all__ = ["dependence"]

_DRAWS = "draws random numbers (dropout, for example), which differ with the rows before it"
_REMEMBERS = "depends on the rows before it"


def dependence(model: FlatModel, task: Task, x: Tensor, y: Tensor) -> str | None:
    """Returns what the loss of a row depends on beside the row, or None.

    x [n, ...] and y [n, ...] are trial rows, n at least 2. Torch's random operations are found by their tag, whatever
    they draw; numbers of NumPy or `random`, and state kept from one call to the next, by a repeated pass that differs.
    """
    model.module.train()
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with torch.no_grad(), _Draws() as draws:
            losses = [_loss(model, task, x[row], y[row]) for row in (0, 1, 0, 1, 1, 0)]
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
    if draws.found:
        return _DRAWS
    first, second, *again = losses
    same = all(torch.equal(one, other) for one, other in zip(again, (first, second, second, first), strict=True))
    if same:
        return None
    return _DRAWS if _changes_alone(model, task, x[0], y[0]) else _REMEMBERS


def _changes_alone(model: FlatModel, task: Task, x: Tensor, y: Tensor) -> bool:
    """True if the loss of one row changes when that row alone is passed again and again."""
    with torch.no_grad():
        _loss(model, task, x, y)
        return len({float(_loss(model, task, x, y)) for _ in range(3)}) > 1


def _loss(model: FlatModel, task: Task, x: Tensor, y: Tensor) -> Tensor:
    return task.loss(model.module(x.unsqueeze(0)), y.unsqueeze(0)).detach().clone()


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records if any operation that draws from a generator of torch was called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found = self.found or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))

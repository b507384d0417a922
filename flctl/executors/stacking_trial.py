"""Trials before a run: does a plugin's `adjust`, or a user's module, give the same results for stacked clients as for
one client at a time?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flctl import arrays
from flctl.executors.loss_heads import head_for
from flctl.executors.vmapped import VmapGradient
from flctl.types import LocalWork, Work

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task

__all__ = ["shares_layers", "stacks", "tried_rows", "vmap_obstacle"]

CLIENTS, ROWS = 2, 3
TOLERANCE = 1e-4


def stacks(run: RunInfo, adjust: Any) -> str | None:
    """Returns the reason that the strategy's `adjust`, or a stage's, cannot be called with stacked clients [K, D]; None
    if its results equal those for single clients."""
    generator = torch.Generator().manual_seed(0)
    size = run.division.layout["params"]
    grads, params = (torch.randn(CLIENTS, size, generator=generator) for _ in range(2))
    work = _tried_work(run, params[0])
    kept = {n: torch.randn(CLIENTS, length, generator=generator) for n, length in run.memory_layout.items()}
    whose = f"strategy '{run.strategy.name}'"
    try:
        together = adjust(grads.clone(), params.clone(), work, kept)
    except Exception as error:
        return f"{whose}: adjust fails for stacked clients ({type(error).__name__}: {error})"
    alone = [
        adjust(grads[k].clone(), params[k].clone(), work, {n: v[k] for n, v in kept.items()}) for k in range(CLIENTS)
    ]
    same = together.shape == grads.shape and bool(torch.allclose(together, torch.stack(alone), TOLERANCE, TOLERANCE))
    return None if same else f"{whose}: adjust is not elementwise, so clients cannot be stacked"


def _tried_work(run: RunInfo, params: Tensor) -> Any:
    model = {name: np.zeros(length, np.float32) for name, length in run.division.layout.items()}
    model["params"] = params.numpy()
    extra = run.strategy.broadcast(run.strategy.init(run.division.public_of(model)))
    tensors = {name: torch.from_numpy(np.array(vector)) for name, vector in extra.items()}
    own = {name: torch.from_numpy(vector.copy()) for name, vector in model.items()}
    return Work(1, own, tensors, {}, LocalWork(), arrays.layout_of(model))  # type: ignore[arg-type]


def shares_layers(module: nn.Module) -> bool:
    """Returns True if one layer stands in the module under several names.

    `torch.func.functional_call` swaps the parameters of such a layer once for each name and restores the swapped ones,
    so that the module holds dead vmap tensors afterwards.
    """
    names = [id(layer) for _, layer in module.named_modules(remove_duplicate=False)]
    return len(names) != len(set(names))


def vmap_obstacle(run: RunInfo, model: FlatModel, task: Task) -> str | None:
    """Returns the reason that the module cannot run under `torch.func.vmap`; None if it agrees with autograd."""
    if "buffers" in model.layout:
        return "the model has buffers, which stacked clients would share"
    if shares_layers(model.module):
        return "the model has one layer under several names, which torch.func.vmap cannot run"
    head = head_for(task)
    if head is None:
        return f"the task is {task.name}"
    x, y = tried_rows(run)
    share = torch.full((CLIENTS, ROWS), 1 / ROWS)
    params = model.params.expand(CLIENTS, -1).clone()
    found = torch.empty_like(params)
    try:
        torch.manual_seed(0)
        VmapGradient(model, head)(params, x, y, share, found)
    except Exception as error:
        return f"torch.func.vmap cannot run the model ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    model.module.train()
    expected = torch.stack([model.gradient(task.loss(model.module(x[k]), y[k])).detach() for k in range(CLIENTS)])
    if torch.allclose(found, expected, TOLERANCE, TOLERANCE):
        return None
    return "under torch.func.vmap the model computes different gradients (because of dropout, for example)"


def tried_rows(run: RunInfo) -> tuple[Tensor, Tensor]:
    """Returns synthetic rows of a few clients, x [K, n, ...] and y [K, n, ...]."""
    generator = torch.Generator().manual_seed(0)
    if run.partition.task == "next-character":
        codes = torch.randint(run.partition.outputs, (2, CLIENTS, ROWS, *run.partition.shape), generator=generator)
        return codes[0], codes[1]
    x = torch.randn(CLIENTS, ROWS, *run.partition.shape, generator=generator)
    if run.partition.task == "regression":
        return x, torch.randn(CLIENTS, ROWS, generator=generator)
    classes = max(run.partition.outputs, 2)
    return x, torch.randint(classes, (CLIENTS, ROWS), generator=generator)

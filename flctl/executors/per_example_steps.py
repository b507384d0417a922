"""Local training by a transform's steps, from per-example gradients; one client at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flctl.algorithms.local_steps import LocalSteps
from flctl.errors import IncompatibleError, PluginError
from flctl.executors.batches import module_seed
from flctl.executors.layer_chain import Chain
from flctl.executors.loss_heads import Head, head_for
from flctl.executors.optimizers import optimizer_for
from flctl.executors.per_example_gradients import ChainRows, LoopRows, RowGradients, VmapRows
from flctl.executors.row_dependence import dependence
from flctl.executors.sequential import Adjust, clip, not_finite
from flctl.executors.shards import LocalJob
from flctl.executors.stacking_trial import shares_layers, tried_rows
from flctl.models.flat_model import FlatModel, tensor
from flctl.models.tasks import Task
from flctl.types import IntArray, Trained

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["BY_ROWS", "StepsOf", "by_rows", "row_gradients", "train_by_rows"]

StepsOf = Callable[[int], LocalSteps]
"""The local steps of the client at a position of the chunk; called when that client is about to train."""

BY_ROWS = {
    "rows-chain": "one client after the other, per-example gradients summed without building them",
    "rows-vmap": "one client after the other, per-example gradients through torch.func.vmap",
    "rows-loop": "one client after the other, one row after the other through autograd",
}
"""The executors of runs in which a transform makes the local steps."""
_TOLERANCE = 1e-4


def by_rows(run: RunInfo, model: FlatModel, task: Task, chain: Chain | None) -> str:
    """Returns the one of `BY_ROWS` that trains the run. Raises IncompatibleError for a model without per-example
    gradients."""
    if "buffers" in model.layout:
        raise IncompatibleError(
            f"transform '{run.makes_steps}' needs per-example gradients, and the model keeps statistics "
            "of its inputs (BatchNorm), which mix rows",
            hint="Use a model with GroupNorm or LayerNorm.",
        )
    if chain is not None and chain.dense and head_for(task):
        return "rows-chain"
    obstacle = dependence(model, task, *(part[0] for part in tried_rows(run)))
    if obstacle is not None:
        raise IncompatibleError(
            f"transform '{run.makes_steps}' needs per-example gradients, and the model {obstacle}",
            hint="Set the model's dropout to 0, or use a model without random numbers and without memory of earlier "
            "rows.",
        )
    return "rows-vmap" if _vmaps(run, model, task) else "rows-loop"


def row_gradients(kind: str, model: FlatModel, task: Task, chain: Chain | None, head: Head | None) -> RowGradients:
    """Returns the per-example gradients as one of `BY_ROWS` computes them."""
    if kind == "rows-chain" and chain is not None and head is not None:
        return ChainRows(model, chain, head)
    return VmapRows(model, task) if kind == "rows-vmap" else LoopRows(model, task)


def _vmaps(run: RunInfo, model: FlatModel, task: Task) -> bool:
    """Returns True if vmap gives autograd's gradients and is fast for the module: recurrent layers run one row after
    the other under vmap, more slowly than without it."""
    if any(isinstance(module, torch.nn.RNNBase) for module in model.module.modules()) or shares_layers(model.module):
        return False
    (x, *_), (y, *_) = tried_rows(run)
    try:
        VmapRows(model, task).total(x, y, np.ones_like)
        model.module.eval()  # with dropout, no two passes agree
        found, expected = (way(model, task).total(x, y, np.ones_like) for way in (VmapRows, LoopRows))
    except Exception:
        return False
    finally:
        model.module.train()
    return torch.allclose(found, expected, _TOLERANCE, _TOLERANCE)


def train_by_rows(
    model: FlatModel,
    gradients: RowGradients,
    job: LocalJob,
    steps: LocalSteps,
    adjust: Adjust | None = None,
) -> Trained:
    """Trains the model in place on one shard by a transform's local steps. The loss is not measured, and NaN.

    Raises DivergenceError if the model is not finite at the end, PluginError for invalid steps.
    """
    model.module.train()
    torch.default_generator.manual_seed(module_seed(job.key))
    local = job.local
    before, optimizer = model.params.clone(), optimizer_for(local)
    x, y = tensor(job.x), tensor(job.y)
    made = 0
    for batch in islice(steps.batches(), job.most):
        index = torch.from_numpy(_checked(batch, len(x)))
        # No loss is recorded beside the gradients: it would be a second release of the rows, without noise.
        total = gradients.total(x.index_select(0, index), y.index_select(0, index), steps.factors)
        grad = _gradient(steps, total)
        if adjust is not None:
            grad = adjust(grad, model.params)
        clip(grad, local.clip_norm)
        optimizer.step(model.params, grad)
        made += 1
    delta = (model.params - before).numpy()
    if not np.isfinite(delta).all():
        raise not_finite("the model is not finite", made, local)
    return Trained({"params": delta}, math.nan, len(x) if made else 0, made)


def _checked(batch: Any, rows: int) -> IntArray:
    index = np.asarray(batch)
    if index.dtype != np.int64 or index.ndim != 1 or (index.size and not 0 <= index.min() <= index.max() < rows):
        raise PluginError(f"a local step uses the rows {str(batch)[:60]}, expected int64 indices in [0, {rows})")
    return index


def _gradient(steps: LocalSteps, total: torch.Tensor) -> torch.Tensor:
    given = np.asarray(steps.gradient(total.numpy()))
    if given.shape != tuple(total.shape):
        raise PluginError(f"a local step has a gradient of the shape {given.shape}, expected {tuple(total.shape)}")
    return torch.from_numpy(given.astype(np.float32))

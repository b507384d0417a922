"""Examples for a model, and one step of training on them as a client makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.models.model import DataSpec
from flctl.testing.values import gap

if TYPE_CHECKING:
    import torch

__all__ = ["Step", "example", "one_step", "weights_of"]


def example(data: DataSpec, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (x, y) as a client's shard holds them."""
    import torch

    rng = np.random.default_rng(rows)
    if data.task == "next-character":
        codes = rng.integers(0, data.outputs, (2, rows, *data.shape))
        return torch.from_numpy(codes[0]), torch.from_numpy(codes[1])
    x = torch.from_numpy(rng.normal(size=(rows, *data.shape)).astype(np.float32))
    if data.task == "regression":
        return x, torch.from_numpy(rng.normal(size=rows).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, max(data.outputs, 2), rows))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of training: the loss before it, and by how much it moved a value at the most."""

    loss: float
    moved: float


def one_step(module: torch.nn.Module, data: DataSpec) -> Step:
    """Trains the module in place by one small step of gradient descent on eight rows."""
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import task_for

    x, y = example(data, 8)
    model, before = FlatModel(module.train()), weights_of(module)
    loss = task_for(data.task).loss(module(x), y)
    model.params -= 0.01 * model.gradient(loss)
    moved = max(gap(vector, before[name]) for name, vector in weights_of(module).items())
    return Step(float(loss.detach()), moved)


def weights_of(module: torch.nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Name -> copy of each tensor of the module's state."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}

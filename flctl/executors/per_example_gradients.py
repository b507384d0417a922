"""Sums of per-example gradients, each multiplied by a factor of its norm.

Sums are accumulated in float64, so that a row's contribution hardly depends on the other rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flctl.executors.layer_chain import ACTIVATIONS, Activation, Chain, Dense
from flctl.executors.loss_heads import Head
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import Task
from flctl.types import FloatArray

__all__ = [
    "ROW_GRADIENT_BYTES",
    "TOGETHER_BYTES",
    "ChainRows",
    "Factors",
    "LoopRows",
    "RowGradients",
    "VmapRows",
]

Factors = Callable[[FloatArray], FloatArray]
"""Norms [n] -> factors [n] for per-example gradients of these norms."""
TOGETHER_BYTES = 128 << 20
"""Bytes that the gradients of the rows processed together may take."""
ROW_GRADIENT_BYTES = 12
"""Bytes for each parameter of one per-example gradient."""
_COLUMNS = 1 << 16
"""Columns of the per-example gradients that are converted to float64 at once."""


class RowGradients(ABC):
    """Per-example gradients of a model, at its current values."""

    def total(self, x: Tensor, y: Tensor, factors: Factors) -> Tensor:
        """Returns sum_i factors(|g_i|) g_i over rows x [n, ...] and y [n, ...], float64 [D]. Rows whose gradient is not
        finite count as zeros; without rows the sum is zero."""
        out = torch.zeros(self._parameters, dtype=torch.float64)
        for start in range(0, len(x), self._at_once):
            self._add(out, x[start : start + self._at_once], y[start : start + self._at_once], factors)
        return out

    @property
    @abstractmethod
    def _parameters(self) -> int: ...

    @property
    @abstractmethod
    def _at_once(self) -> int: ...

    @abstractmethod
    def _add(self, out: Tensor, x: Tensor, y: Tensor, factors: Factors) -> None:
        """Adds the gradients of some rows to `out`."""


class ChainRows(RowGradients):
    """For a dense chain: one forward and one backward pass for all rows, without building any per-example gradient.

    A linear layer's gradient of row i is the outer product of d_i, the loss's gradient with respect to the layer's
    output, and h_i, its input. Its norm is |d_i| |h_i| (Goodfellow 2015, section 4).
    """

    def __init__(self, model: FlatModel, chain: Chain, head: Head) -> None:
        self._flat, self._layers, self._head = model.params, chain.links, head

    @property
    def _parameters(self) -> int:
        return self._flat.numel()

    @property
    def _at_once(self) -> int:
        widths = sum(layer.inputs + layer.outputs for layer in self._layers if isinstance(layer, Dense))
        return max(1, TOGETHER_BYTES // (16 * widths))

    def _add(self, out: Tensor, x: Tensor, y: Tensor, factors: Factors) -> None:
        seen = self._backward(x, y)
        squares = torch.zeros(len(x), dtype=torch.float64)
        for layer, d, h in seen:
            # |d h^T|^2 = |d|^2 |h|^2, and the bias gradient is d itself: + |d|^2. In float64: the clipping norm bounds
            # sensitivity.
            squares += _squares(d) * (_squares(h) + (layer.bias is not None))
        scales = _scales(squares.sqrt(), factors).unsqueeze(1)
        for layer, d, h in seen:
            # A row of scale 0 may hold infinite values, and 0 * infinity is NaN: it would spoil the sum of all rows.
            scaled = torch.where(scales != 0, d * scales, 0)
            used = torch.where(scales != 0, h.double(), 0)
            out[layer.weight].view(layer.outputs, layer.inputs).addmm_(scaled.T, used)
            if layer.bias is not None:
                out[layer.bias] += scaled.sum(0)

    def _backward(self, x: Tensor, y: Tensor) -> list[tuple[Dense, Tensor, Tensor]]:
        """Returns each linear layer with the gradient of each row's loss with respect to its output, and its input."""
        h, passed = x.reshape(len(x), -1), []
        for layer in self._layers:
            before, h = h, self._forward(layer, h)
            passed.append((layer, before, h))
        _, d = self._head(h, y)
        seen: list[tuple[Dense, Tensor, Tensor]] = []
        for layer_index in range(len(passed) - 1, -1, -1):
            layer, before, after = passed[layer_index]
            if isinstance(layer, Activation):
                d = ACTIVATIONS[layer.name].backward(d, before, after)
                continue
            seen.append((layer, d, before))
            d = d @ self._weight(layer) if layer_index else d
        return seen

    def _forward(self, layer: Dense | Activation, h: Tensor) -> Tensor:
        if isinstance(layer, Activation):
            return ACTIVATIONS[layer.name].forward(h)
        return functional.linear(h, self._weight(layer), None if layer.bias is None else self._flat[layer.bias])

    def _weight(self, layer: Dense) -> Tensor:
        return self._flat[layer.weight].view(layer.outputs, layer.inputs)


class VmapRows(RowGradients):
    """For a module without buffers that `torch.func.vmap` can run: each row alone, as a batch of one."""

    def __init__(self, model: FlatModel, task: Task) -> None:
        self._model, self._task = model, task
        trained = {id(parameter) for parameter in model.parameters}
        named = [(name, p) for name, p in model.module.named_parameters() if id(p) in trained]
        self._names = [name for name, _ in named]
        self._shapes = [p.shape for _, p in named]
        self._sizes = [p.numel() for _, p in named]
        self._gradient = torch.func.vmap(torch.func.grad(self._loss), in_dims=(None, 0, 0), randomness="different")

    @property
    def _parameters(self) -> int:
        return self._model.params.numel()

    @property
    def _at_once(self) -> int:
        return max(1, TOGETHER_BYTES // (ROW_GRADIENT_BYTES * self._parameters))

    def _add(self, out: Tensor, x: Tensor, y: Tensor, factors: Factors) -> None:
        grads = self._gradient(self._model.params, x, y).detach()
        norms = torch.linalg.vector_norm(grads, dim=1, dtype=torch.float64)
        scales = _scales(norms, factors)
        grads[scales == 0] = 0  # 0 * infinity is NaN, and would spoil the sum of all rows
        for start in range(0, len(out), _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            out[columns] += scales @ grads[:, columns].double()

    def _loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(self._names, torch.split(flat, self._sizes), self._shapes, strict=True)
        named = {name: part.view(shape) for name, part, shape in parts}
        outputs = torch.func.functional_call(self._model.module, named, (x.unsqueeze(0),))
        return self._task.loss(outputs, y.unsqueeze(0))


class LoopRows(RowGradients):
    """For any module: one row after the other through autograd."""

    def __init__(self, model: FlatModel, task: Task) -> None:
        self._model, self._task = model, task

    @property
    def _parameters(self) -> int:
        return self._model.params.numel()

    @property
    def _at_once(self) -> int:
        return 1

    def _add(self, out: Tensor, x: Tensor, y: Tensor, factors: Factors) -> None:
        grad = self._model.gradient(self._task.loss(self._model.module(x), y)).detach()
        scale = float(_scales(torch.linalg.vector_norm(grad, dtype=torch.float64).view(1), factors)[0])
        if scale:
            out.add_(grad, alpha=scale)


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def _scales(norms: Tensor, factors: Factors) -> Tensor:
    """Returns the factors [n] of gradients of these norms [n]: 0 for a norm that is NaN or infinite."""
    # A gradient that is not finite has no norm to clip by: counted as zero, it keeps the bound on a row's contribution.
    finite = torch.isfinite(norms)
    given = torch.from_numpy(np.array(factors(torch.where(finite, norms, 0).numpy()), np.float64))
    return torch.where(finite, given, 0)

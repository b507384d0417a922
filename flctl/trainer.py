"""Local training in torch: one client after another, each from the model it is given.

Everything that a result depends on is an argument: the model's values, the rows, the work and the generator. Who
trained before in the process, and in which process, does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flctl.errors import ConfigError, DivergenceError, IncompatibleError
from flctl.local_optimizer import Optimizer, optimizer_for
from flctl.order import batches, module_seed
from flctl.parts import Part
from flctl.tasks import Task
from flctl.types import Arrays, Layout, LocalWork

if TYPE_CHECKING:
    from flctl.executors.fused import FusedStep

__all__ = [
    "CLIP_EPS",
    "Adjust",
    "FlatModel",
    "Start",
    "Trained",
    "is_plain",
    "measure",
    "not_finite",
    "single_thread",
    "tensor",
    "train",
]

_ROWS = 1000
"""Rows that are measured at once."""

Adjust = Callable[[Tensor, Tensor], Tensor]
"""`adjust(grad, params) -> grad` on flat tensors [D], called at each step before clipping. It may work in
place on `grad` and must leave `params` alone; what it returns may be overwritten."""

CLIP_EPS = 1e-6
"""Added to a gradient's norm before it divides, as `torch.nn.utils.clip_grad_norm_` does."""


def single_thread() -> None:
    """Makes this process compute on one thread, so that sums have one order; called once by a process that trains."""
    torch.set_num_threads(1)


class FlatModel:
    """A module whose trainable parameters are views of one flat float32 tensor.

    `params` [D] holds each trainable parameter once, in the order of `module.named_parameters()`, tied ones under
    their first name; `parameters` are they and `values` the views of `params` behind them. `read` and `load`
    move it together with "buffers" [B]: the persistent buffers as float32 in the order of
    `module.named_buffers()`; integer ones (BatchNorm's counter) are rounded when loaded, and so are exact up to
    2^24. Parameters that do not require a gradient are constants of the model: each process builds them alike, so
    they are neither trained nor sent, but they are part of the named state.
    """

    def __init__(self, module: nn.Module) -> None:
        """Takes the module over: its values are kept and made float32. Raises ConfigError for nothing to train."""
        self.module = module.float()
        self.parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError(
                "the model has no trainable parameters", hint="Some parameter must have requires_grad set."
            )
        self._shapes = [p.shape for p in self.parameters]
        self._sizes = [p.numel() for p in self.parameters]
        self.params = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.values = self._views(self.params)
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value
        named = module.state_dict().keys()
        self._buffer_names = [name for name, _ in module.named_buffers() if name in named]
        self._buffer_sizes = [buffer.numel() for buffer in self._buffers()]

    @property
    def layout(self) -> Layout:
        """{"params": D, "buffers": B}, the latter only where B > 0."""
        buffers = sum(self._buffer_sizes)
        return {"params": self.params.numel()} | ({"buffers": buffers} if buffers else {})

    @property
    def parts(self) -> list[Part]:
        """Where each parameter and buffer lies in the vectors, in order."""
        trained = {id(parameter) for parameter in self.parameters}
        names = [name for name, parameter in self.module.named_parameters() if id(parameter) in trained]
        return [
            *self._parts("params", names, self._sizes),
            *self._parts("buffers", self._buffer_names, self._buffer_sizes),
        ]

    @property
    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes of the parameters that lie end to end in "params"."""
        return {"params": [tuple(shape) for shape in self._shapes]}

    def load(self, arrays: Arrays) -> None:
        """Copies vectors in. Raises IncompatibleError when they are not as `layout` says; then nothing changes."""
        self._check(arrays)
        self.params.numpy()[:] = arrays["params"]
        if "buffers" in arrays:
            parts = torch.split(tensor(arrays["buffers"]), self._buffer_sizes)
            for buffer, part in zip(self._buffers(), parts, strict=True):
                exact = buffer.is_floating_point()
                buffer.copy_((part if exact else part.round()).view(buffer.shape))

    def read(self) -> dict[str, npt.NDArray[np.float32]]:
        """Copies of the vectors: "params" [D] and, where B > 0, "buffers" [B], float32."""
        arrays = {"params": self.params.numpy().copy()}
        if "buffers" in self.layout:
            arrays["buffers"] = self._flat_buffers().numpy().copy()
        return arrays

    def state_dict_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Name -> copy of each entry of `module.state_dict()`, shapes and dtypes kept: what plain torch loads."""
        return {name: value.numpy().copy() for name, value in self.module.state_dict().items()}

    def load_state_dict_arrays(self, named: Arrays) -> None:
        """Copies named tensors in, the reverse of `state_dict_arrays`. Raises IncompatibleError, and changes
        nothing, when a name is missing or unknown or a shape differs."""
        state = self.module.state_dict()
        _check_named({name: tuple(value.shape) for name, value in state.items()}, named)
        for name, value in state.items():
            value.copy_(tensor(named[name]).view(value.shape))

    def gradient(self, loss: Tensor) -> Tensor:
        """The flat gradient [D] of a loss; zero for parameters that the loss does not depend on."""
        return torch.cat([part.reshape(-1) for part in self.gradients(loss)])

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """The gradient of a loss for each of `parameters`."""
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)

    def _parts(self, vector: str, names: list[str], sizes: list[int]) -> Iterator[Part]:
        start = 0
        for name, size in zip(names, sizes, strict=True):
            owner = type(self.module.get_submodule(name.rpartition(".")[0]))
            kinds = tuple(kind.__name__ for kind in owner.__mro__ if issubclass(kind, nn.Module))
            yield Part(name, vector, start, start + size, kinds)
            start += size

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [part.view(s) for part, s in zip(torch.split(flat, self._sizes), self._shapes, strict=True)]

    def _buffers(self) -> list[Tensor]:
        return [self.module.get_buffer(name) for name in self._buffer_names]

    def _flat_buffers(self) -> Tensor:
        return torch.cat([buffer.detach().reshape(-1).float() for buffer in self._buffers()])

    def _check(self, arrays: Arrays) -> None:
        found = {name: array.shape for name, array in arrays.items()}
        expected = {name: (length,) for name, length in self.layout.items()}
        if found != expected:
            raise IncompatibleError(
                f"the vectors do not fit the model: found {_shapes(found)}, expected {_shapes(expected)}",
                hint="They belong to a model with other options or other data.",
            )


@dataclass(frozen=True, slots=True)
class Start:
    """The global model on all rows of a client, before its first step: the mean loss and its gradient [D], None where
    it was not asked for. Without dropout, and with the statistics for normalisation that the model has."""

    loss: float
    gradient: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Trained:
    """One client's local training.

    `delta`: the values after minus those before, laid out as the model; `loss`: the mean training loss over the
    examples processed, each as the model was when it met them, NaN where a transform makes the steps; `examples`: the
    rows of the shard, 0 where no step was made; `steps`: how many. `start` is what the strategy `measures`. `personal`
    are the values that the client's own model ended with, where a stage started from it or parts of the model are
    private; `delta` is without these.
    """

    delta: Arrays
    loss: float
    examples: int
    steps: int
    start: Start | None = None
    personal: Arrays | None = None


def train(
    model: FlatModel,
    task: Task,
    x: npt.NDArray[np.generic],
    y: npt.NDArray[np.generic],
    local: LocalWork,
    key: np.uint64,
    adjust: Adjust | None = None,
    fused: FusedStep | None = None,
    most: int | None = None,
) -> Trained:
    """Trains the model in place on one shard, x [n, ...] and y [n] or [n, window], and tells what changed.

    One step is g = gradient of the batch's mean loss; g = adjust(g, w); g scaled to a norm of at most `clip_norm`;
    then the optimiser's update. (A strategy's term is part of the loss that is minimised, so it is clipped
    with it.) The optimiser starts fresh. `key` decides the module's own randomness (dropout) and the order of the
    rows in each epoch (see `order.batches`). `fused` takes the place of autograd; `most` ends training after so many
    steps. An empty shard changes nothing.
    Raises DivergenceError as soon as the loss, or at the end the model, is not finite; the model is then in no
    defined state.
    """
    model.module.train()
    torch.default_generator.manual_seed(module_seed(key))
    before, step = model.read(), _step(model, task, local, adjust, fused)
    inputs, targets = tensor(x), tensor(y)
    total, terms, steps = 0.0, 0, 0
    for rows in batches(len(inputs), local, key, most):
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
    model: FlatModel, task: Task, x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], gradient: bool
) -> Start:
    """The model on rows x [n, ...], y [n] or [n, window]; nothing of it changes. 0 and zeros for no rows."""
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
    """Whether a step moves each coordinate by -lr times its gradient, and nothing else."""
    more = local.momentum or local.weight_decay or local.clip_norm is not None or adjust is not None
    return local.optimizer == "sgd" and not more


Step = Callable[[Tensor, Tensor], float]
"""`step(x, y) -> loss`: makes one step on a batch, and returns the mean loss before it."""


def _step(model: FlatModel, task: Task, local: LocalWork, adjust: Adjust | None, fused: FusedStep | None) -> Step:
    """Where each coordinate moves by -lr times its gradient and nothing else, the flat gradient is never built; the
    values are the same."""
    if is_plain(local, adjust):
        return partial(_plain_step, model, task, local.lr) if fused is None else partial(fused.descend, lr=local.lr)
    gradient = partial(_gradient, model, task) if fused is None else fused.gradient
    return partial(_flat_step, model, local, optimizer_for(local), adjust, gradient)


def _plain_step(model: FlatModel, task: Task, lr: float, x: Tensor, y: Tensor) -> float:
    loss = task.loss(model.module(x), y)
    torch._foreach_add_(model.values, model.gradients(loss), alpha=-lr)
    return loss.item()


def _gradient(model: FlatModel, task: Task, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    loss = task.loss(model.module(x), y)
    return model.gradient(loss), loss.item()


def _flat_step(
    model: FlatModel,
    local: LocalWork,
    optimizer: Optimizer,
    adjust: Adjust | None,
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, float]],
    x: Tensor,
    y: Tensor,
) -> float:
    grad, loss = gradient(x, y)
    if adjust is not None:
        grad = adjust(grad, model.params)
    if local.clip_norm is not None:
        grad.mul_((local.clip_norm / (torch.linalg.vector_norm(grad) + CLIP_EPS)).clamp_(max=1.0))
    optimizer.step(model.params, grad)
    return loss


def _difference(
    after: dict[str, npt.NDArray[np.float32]], before: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    for name in after:
        after[name] -= before[name]
    return after


def not_finite(what: str, step: int, local: LocalWork) -> DivergenceError:
    """The error of local training that left the finite numbers by step `step`."""
    return DivergenceError(
        f"{what} at local step {step} (optimizer {local.optimizer}, learning rate {local.lr:g})",
        hint="Lower local.lr, or set local.clip_norm.",
    )


def tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the array's memory: float32, or int64 for codes; copied only where torch cannot share it."""
    kind = np.int64 if array.dtype.kind in "iub" else np.float32
    array = np.ascontiguousarray(array, kind)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_named(expected: Mapping[str, tuple[int, ...]], found: Arrays) -> None:
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    differ = [name for name in expected.keys() & found.keys() if found[name].shape != expected[name]]
    problems = [f"no tensor '{name}'" for name in missing] + [f"unknown tensor '{name}'" for name in unknown]
    problems += [f"'{n}' is {found[n].shape}, expected {expected[n]}" for n in sorted(differ)]
    if problems:
        raise IncompatibleError(
            f"the tensors do not fit the model: {'; '.join(problems[:5])}",
            hint="They belong to a model with other options or other data.",
        )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"

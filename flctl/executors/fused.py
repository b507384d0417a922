"""Hand-written training step for a chain of layers, convolutions included; one client at a time.

The mathematics is that of autograd on the module, and the gradients are equal within rounding. It is faster for these
reasons, the first three in about equal parts on a small convolutional network:

- Pooling runs with channels last, where it reads whole vectors. It also runs before a ReLU that it follows, on a
  quarter of the values: the maximum of max(z, 0) is max(maximum of z, 0). If several values tie for it, a gradient that
  ReLU passes belongs to the same one of them, the first.
- A linear layer is updated by the product that computes its gradient, so the gradient is never stored.
- Convolutions of few channels run with channels last, which saves reordering their large outputs; the first layer's
  input gradient is not computed.
- There is no graph to record and no optimiser to call.

Every operation is in a fixed order that depends on the arguments alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from flctl.executors.layer_chain import ACTIVATIONS, Activation, Chain, Convolution, Dense, Flat, Layer, MaxPool, Shape
from flctl.executors.loss_heads import Head

if TYPE_CHECKING:
    from flctl.models.flat_model import FlatModel

__all__ = ["FusedStep", "unsupported"]

_VECTOR = 8
"""Float32 values in a vector register: with channels last, pooling reads as many channels at once."""

_BLOCKED_KERNEL, _BLOCKED_CHANNELS = 25, 32
"""From this kernel area and this many channels on either side, in whole vectors, oneDNN's convolutions with blocked
channels (used by torch with channels first) were up to 30 % faster than those with channels last. Elsewhere they were
no faster, and for a first layer of few channels 2 to 5 times slower."""

_ALIGNMENT = 64
"""Alignment, in bytes, of memory that torch allocates. In other memory vector code may sum in another order."""


def unsupported(chain: Chain | None, head: Head | None, example: Shape) -> str | None:
    """Returns the reason that FusedStep cannot train a model on examples of this shape, or None."""
    if chain is None:
        return "the model is not a plain list of layers that have a hand-written step"
    if head is None:
        return "the task has no hand-written loss"
    shapes = chain.shapes(example)
    if shapes is None or len(shapes[-1]) != 1:
        return f"the layers do not turn an example of shape {list(example)} into a vector"
    return None


class FusedStep:
    """Gradients and plain SGD steps for one model, whose vector is changed in place.

    The chain and the head must be ones for which `unsupported` returns None.
    """

    def __init__(self, model: FlatModel, chain: Chain, head: Head) -> None:
        self._grad = torch.empty_like(model.params)
        self._head = head
        self._parts = _parts(chain, model.params, self._grad)

    def descend(self, x: Tensor, y: Tensor, lr: float) -> float:
        """Makes one SGD step on a batch, x [n, ...] float32 and y [n], and returns its mean loss before the step."""
        return self._step(x, y, lr)

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """Returns the gradient [D] of a batch's mean loss, and that loss. The caller may change the gradient; the next
        call overwrites it."""
        loss = self._step(x, y, None)
        return self._grad, loss

    def _step(self, x: Tensor, y: Tensor, lr: float | None) -> float:
        h, seen = _aligned(x), []
        for part in self._parts:
            h, memory = part.forward(h)
            seen.append(memory)
        losses, grad = self._head(h, y)
        d: Tensor | None = grad.div_(len(x))
        for part, memory in zip(reversed(self._parts), reversed(seen), strict=True):
            if d is None:
                break
            d = part.backward(d, memory, lr)
        return losses.mean().item()


class _Parameter:
    """A weight or bias: its view of the model's vector, and the corresponding view of the gradient."""

    def __init__(self, params: Tensor, grad: Tensor, part: slice, shape: Shape) -> None:
        self.value = params[part].view(shape)
        self._grad = grad[part].view(shape)

    def put(self, grad: Tensor, lr: float | None) -> None:
        """Moves the value by -lr times the gradient; without lr, stores the gradient."""
        if lr is None:
            self._grad.copy_(grad)
        else:
            self.value.add_(grad, alpha=-lr)

    def put_product(self, d: Tensor, h: Tensor, lr: float | None) -> None:
        """Applies `put` to d^T h, [outputs, inputs], without building the product first."""
        if lr is None:
            torch.mm(d.t(), h, out=self._grad)
        else:
            self.value.addmm_(d.t(), h, alpha=-lr)


def _bias(layer: Dense | Convolution, params: Tensor, grad: Tensor) -> _Parameter | None:
    return None if layer.bias is None else _Parameter(params, grad, layer.bias, (layer.outputs,))


_Memory = tuple[Tensor, ...]
"""Values of a layer's forward pass that its backward pass needs."""


class _Part(Protocol):
    """One layer of the step. `backward` takes the gradient with respect to the output of `forward`, updates the
    parameters by `_Parameter.put`, and returns the gradient with respect to the input; None if no earlier layer needs
    it."""

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]: ...

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None: ...


class _DensePart:
    def __init__(self, layer: Dense, params: Tensor, grad: Tensor, *, first: bool) -> None:
        self._weight = _Parameter(params, grad, layer.weight, (layer.outputs, layer.inputs))
        self._bias = _bias(layer, params, grad)
        self._first = first

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        return functional.linear(x, self._weight.value, self._bias.value if self._bias else None), (x,)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        # Before the update: the input gradient belongs to the weight that the forward pass used.
        before = None if self._first else d @ self._weight.value
        self._weight.put_product(d, memory[0], lr)
        if self._bias:
            self._bias.put(d.sum(0), lr)
        return before


class _ConvolutionPart:
    def __init__(self, layer: Convolution, params: Tensor, grad: Tensor, *, first: bool) -> None:
        shape = (layer.outputs, layer.inputs, *layer.kernel)
        self._weight = _Parameter(params, grad, layer.weight, shape)
        self._bias = _bias(layer, params, grad)
        self._first = first
        self._stride, self._padding = list(layer.stride), list(layer.padding)
        self._last = not (_is_blocked(layer) or _is_sampling(layer))

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        x = _laid_out(x, last=self._last)
        bias = self._bias.value if self._bias else None
        return functional.conv2d(x, self._weight.value, bias, self._stride, self._padding), (x,)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        d = _laid_out(d, last=self._last)
        where = None, self._stride, self._padding, [1, 1], False, [0, 0], 1, [not self._first, True, False]
        before: Tensor | None
        before, grad, _ = torch.ops.aten.convolution_backward(d, memory[0], self._weight.value, *where)
        self._weight.put(grad, lr)
        if self._bias:
            self._bias.put(d.sum((0, 2, 3)), lr)
        return before


class _MaxPoolPart:
    """Pools in the faster layout and returns the layout that it was given."""

    def __init__(self, layer: MaxPool) -> None:
        self._kernel = list(layer.kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        last = _is_last(x)
        laid_out = _laid_out(x, last=last or x.shape[1] >= _VECTOR)
        h, indices = torch.ops.aten.max_pool2d_with_indices(laid_out, self._kernel, self._kernel)
        return _laid_out(h, last=last), (x, _laid_out(indices, last=last))

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        x, indices = memory
        where = self._kernel, self._kernel, [0, 0], [1, 1], False, indices
        before: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(_laid_out(d, last=_is_last(x)), x, *where)
        return before


class _FlatPart:
    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        return x.flatten(1), (x,)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        return d.view(memory[0].shape)


class _ActivationPart:
    def __init__(self, layer: Activation) -> None:
        self._function = ACTIVATIONS[layer.name]

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        h = self._function.forward(x)
        return h, (h if self._function.from_output else x, h)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        z, h = memory
        return self._function.backward(_laid_out(d, last=_is_last(h)) if d.dim() == 4 else d, z, h)


def _parts(chain: Chain, params: Tensor, grad: Tensor) -> list[_Part]:
    parts: list[_Part] = []
    learnt = False
    for layer in _pool_before_relu(chain.layers):
        parts.append(_part(layer, params, grad, first=not learnt))
        learnt = learnt or isinstance(layer, Dense | Convolution)
    return parts


def _pool_before_relu(layers: tuple[Layer, ...]) -> list[Layer]:
    found: list[Layer] = []
    for layer in layers:
        # ReLU is monotone, so max pooling commutes with it; swapped, ReLU sees a quarter of the values for a 2 x 2
        # window.
        early = isinstance(layer, MaxPool) and bool(found) and found[-1] == Activation("relu")
        found.insert(len(found) - early, layer)
    return found


def _part(layer: Layer, params: Tensor, grad: Tensor, *, first: bool) -> _Part:
    match layer:
        case Dense():
            return _DensePart(layer, params, grad, first=first)
        case Convolution():
            return _ConvolutionPart(layer, params, grad, first=first)
        case MaxPool():
            return _MaxPoolPart(layer)
        case Flat():
            return _FlatPart()
        case Activation():
            return _ActivationPart(layer)


def _is_blocked(layer: Convolution) -> bool:
    sides = layer.inputs, layer.outputs
    whole = all(channels >= _BLOCKED_CHANNELS and channels % _VECTOR == 0 for channels in sides)
    return whole and math.prod(layer.kernel) >= _BLOCKED_KERNEL


def _is_sampling(layer: Convolution) -> bool:
    """Returns True for a 1 x 1 kernel with a stride. With channels last, oneDNN 3.12 writes beyond its scratch memory
    in the weight gradient of such convolutions if the channels are not whole vectors."""
    return layer.kernel == (1, 1) and layer.stride != (1, 1)


def _aligned(x: Tensor) -> Tensor:
    """Returns the same values, contiguous and aligned as memory that torch allocates."""
    return x if x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0 else x.clone(memory_format=torch.contiguous_format)


def _laid_out(x: Tensor, *, last: bool) -> Tensor:
    """Returns x [n, c, h, w] in memory as [n, h, w, c] if `last`, otherwise contiguous. If sizes of one make both
    layouts the same memory, only strides distinguish them, and torch's kernels follow the strides."""
    _, c, h, w = x.shape
    strides = (c * h * w, 1, c * w, c) if last else (c * h * w, h * w, w, 1)
    if x.stride() == strides:
        return x
    if x.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format):
        return x.as_strided(x.shape, strides)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def _is_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous()

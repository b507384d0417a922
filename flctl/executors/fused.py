"""One client at a time by a training step written out for a chain of layers, convolutions included.

The mathematics is that of autograd on the module, and the gradients are equal to its within rounding. What makes it
faster, the first three in about equal parts on a small convolutional network:

- Pooling runs with channels last, where it reads whole vectors. It also runs before a ReLU that it follows, on a
  quarter of the values: the maximum of max(z, 0) is max(maximum of z, 0), and where several values tie for it, a
  gradient that ReLU lets through belongs to the same one of them, the first.
- A linear layer is updated by the product that computes its gradient, so the gradient is never stored.
- Convolutions of few channels run with channels last, which saves putting their large outputs in order; the first
  layer's input gradient is not computed.
- There is no graph to record and no optimiser to walk.

Everything is computed in one order from the arguments alone.
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
"""Float32 values in a vector register: pooling reads so many channels at once where they lie last."""

_BLOCKED_KERNEL, _BLOCKED_CHANNELS = 25, 32
"""From this area of the kernel and this many channels on either side, in whole vectors, oneDNN's convolutions with
blocked channels (which torch reaches with channels first) were up to 30 % faster than those with channels last;
elsewhere as fast or slower, for a first layer's few channels 2 to 5 times."""

_ALIGNMENT = 64
"""Bytes that torch aligns what it allocates to. Elsewhere vector code may sum in another order."""


def unsupported(chain: Chain | None, head: Head | None, example: Shape) -> str | None:
    """Why a model cannot be trained by FusedStep on examples of this shape; None where it can."""
    if chain is None:
        return "the model is not a plain list of layers that have a hand-written step"
    if head is None:
        return "the task has no hand-written loss"
    shapes = chain.shapes(example)
    if shapes is None or len(shapes[-1]) != 1:
        return f"the layers do not make a vector of an example of shape {list(example)}"
    return None


class FusedStep:
    """Gradients and plain steps of stochastic gradient descent for one model, whose vector it works on in place.

    For a chain and a head that `unsupported` has nothing against.
    """

    def __init__(self, model: FlatModel, chain: Chain, head: Head) -> None:
        self._grad = torch.empty_like(model.params)
        self._head = head
        self._parts = _parts(chain, model.params, self._grad)

    def descend(self, x: Tensor, y: Tensor, lr: float) -> float:
        """The mean loss of a batch, x [n, ...] float32 and y [n]; the model moves by -lr times its gradient."""
        return self._step(x, y, lr)

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """The gradient [D] of a batch's mean loss, and that loss. The next call overwrites the gradient; until
        then it is the caller's to change."""
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
    """A weight or bias: its view of the model's vector, and the one of the gradient's."""

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
        """`put` of d^T h, [outputs, inputs]."""
        if lr is None:
            torch.mm(d.t(), h, out=self._grad)
        else:
            self.value.addmm_(d.t(), h, alpha=-lr)


def _bias(layer: Dense | Convolution, params: Tensor, grad: Tensor) -> _Parameter | None:
    return None if layer.bias is None else _Parameter(params, grad, layer.bias, (layer.outputs,))


_Memory = tuple[Tensor, ...]
"""What a part's backward needs of its forward."""


class _Part(Protocol):
    """One layer's share of the step. `backward` takes the gradient with respect to what `forward` returned; it does
    to the parameters as `_Parameter.put` says and returns the gradient with respect to the input, or None where no
    earlier layer needs it."""

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]: ...

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None: ...


class _DensePart:
    def __init__(self, layer: Dense, params: Tensor, grad: Tensor, first: bool) -> None:
        self._weight = _Parameter(params, grad, layer.weight, (layer.outputs, layer.inputs))
        self._bias = _bias(layer, params, grad)
        self._first = first

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        return functional.linear(x, self._weight.value, self._bias.value if self._bias else None), (x,)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        before = None if self._first else d @ self._weight.value
        self._weight.put_product(d, memory[0], lr)
        if self._bias:
            self._bias.put(d.sum(0), lr)
        return before


class _ConvolutionPart:
    def __init__(self, layer: Convolution, params: Tensor, grad: Tensor, first: bool) -> None:
        shape = (layer.outputs, layer.inputs, *layer.kernel)
        self._weight = _Parameter(params, grad, layer.weight, shape)
        self._bias = _bias(layer, params, grad)
        self._first = first
        self._stride, self._padding = list(layer.stride), list(layer.padding)
        self._last = not (_is_blocked(layer) or _is_sampling(layer))

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        x = _laid_out(x, self._last)
        bias = self._bias.value if self._bias else None
        return functional.conv2d(x, self._weight.value, bias, self._stride, self._padding), (x,)

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        d = _laid_out(d, self._last)
        where = None, self._stride, self._padding, [1, 1], False, [0, 0], 1, [not self._first, True, False]
        before: Tensor | None
        before, grad, _ = torch.ops.aten.convolution_backward(d, memory[0], self._weight.value, *where)
        self._weight.put(grad, lr)
        if self._bias:
            self._bias.put(d.sum((0, 2, 3)), lr)
        return before


class _MaxPoolPart:
    """Gives back the layout that it is given, whichever it pools in."""

    def __init__(self, layer: MaxPool) -> None:
        self._kernel = list(layer.kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, _Memory]:
        last = _is_last(x)
        laid_out = _laid_out(x, last or x.shape[1] >= _VECTOR)
        h, indices = torch.ops.aten.max_pool2d_with_indices(laid_out, self._kernel, self._kernel)
        return _laid_out(h, last), (x, _laid_out(indices, last))

    def backward(self, d: Tensor, memory: _Memory, lr: float | None) -> Tensor | None:
        x, indices = memory
        where = self._kernel, self._kernel, [0, 0], [1, 1], False, indices
        before: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(_laid_out(d, _is_last(x)), x, *where)
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
        return self._function.backward(_laid_out(d, _is_last(h)) if d.dim() == 4 else d, z, h)


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
        early = isinstance(layer, MaxPool) and bool(found) and found[-1] == Activation("relu")
        found.insert(len(found) - early, layer)
    return found


def _part(layer: Layer, params: Tensor, grad: Tensor, first: bool) -> _Part:
    match layer:
        case Dense():
            return _DensePart(layer, params, grad, first)
        case Convolution():
            return _ConvolutionPart(layer, params, grad, first)
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
    """A 1 x 1 kernel that skips places. With channels last, oneDNN 3.12 writes beyond its scratch memory in the weight
    gradient of such convolutions where the channels are no whole vectors."""
    return layer.kernel == (1, 1) and layer.stride != (1, 1)


def _aligned(x: Tensor) -> Tensor:
    """The same values in order, in memory that is aligned as torch's own is."""
    return x if x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0 else x.clone(memory_format=torch.contiguous_format)


def _laid_out(x: Tensor, last: bool) -> Tensor:
    """x [n, c, h, w] in memory as [n, h, w, c] if `last`, else in order; where sizes of one make both the same
    memory, strides tell them apart, and torch's kernels go by these."""
    _, c, h, w = x.shape
    strides = (c * h * w, 1, c * w, c) if last else (c * h * w, h * w, w, 1)
    if x.stride() == strides:
        return x
    if x.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format):
        return x.as_strided(x.shape, strides)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def _is_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous()

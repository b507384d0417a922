"""Chains: modules that are a plain list of known layers, described so that a training step can be written by hand.

A layer names the slices of the flat parameter vector that hold its weight and bias, so that one description serves one
client's vector [D] and stacked ones [K, D].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Chain",
    "Convolution",
    "Dense",
    "Flat",
    "Layer",
    "MaxPool",
    "Pointwise",
    "Shape",
    "chain_of",
]

Shape = tuple[int, ...]
"""Shape of one example, or of a layer's output for one example: without the batch dimension."""


@dataclass(frozen=True, slots=True)
class Dense:
    """h = x W^T + b: `weight` is W [outputs, inputs], row after row, `bias` b [outputs]."""

    weight: slice
    bias: slice | None
    inputs: int
    outputs: int

    def shape(self, before: Shape) -> Shape | None:
        return (self.outputs,) if before == (self.inputs,) else None


@dataclass(frozen=True, slots=True)
class Convolution:
    """Cross-correlation with zero padding: `weight` is [outputs, inputs, *kernel], `bias` [outputs]."""

    weight: slice
    bias: slice | None
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def shape(self, before: Shape) -> Shape | None:
        if len(before) != 3 or before[0] != self.inputs:
            return None
        sizes = zip(before[1:], self.kernel, self.stride, self.padding, strict=True)
        after = tuple((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in sizes)
        return (self.outputs, *after) if min(after) > 0 else None


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The maximum of each window; windows do not overlap, and rows and columns left over are dropped."""

    kernel: tuple[int, int]

    def shape(self, before: Shape) -> Shape | None:
        if len(before) != 3:
            return None
        depth, height, width = before
        after = (depth, height // self.kernel[0], width // self.kernel[1])
        return after if min(after) > 0 else None


@dataclass(frozen=True, slots=True)
class Flat:
    """All dimensions but the batch's flattened into one."""

    def shape(self, before: Shape) -> Shape | None:
        return (math.prod(before),)


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function, a key of `ACTIVATIONS`."""

    name: str

    def shape(self, before: Shape) -> Shape | None:
        return before


Layer = Dense | Convolution | MaxPool | Flat | Activation


@dataclass(frozen=True, slots=True)
class Pointwise:
    """The computation of an activation.

    `forward(z) -> h`; `backward(d, z, h)` is the gradient with respect to z, where d is that with respect to h. Both
    return new tensors. `from_output`: `backward` reads h and never z, so h may overwrite z.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    from_output: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """The layers in order, and the length D of the flat parameter vector that their slices index."""

    layers: tuple[Layer, ...]
    parameters: int

    @property
    def dense(self) -> bool:
        """True if all layers are linear ones and activations, after at most one that flattens."""
        rest = self.layers[1:] if isinstance(self.layers[0], Flat) else self.layers
        return all(isinstance(layer, Dense | Activation) for layer in rest)

    @property
    def links(self) -> tuple[Dense | Activation, ...]:
        """The linear layers and activations of a dense chain, in order; other modules index layers by this tuple."""
        return tuple(layer for layer in self.layers if isinstance(layer, Dense | Activation))

    def shapes(self, example: Shape) -> tuple[Shape, ...] | None:
        """Returns each layer's output shape for an example of this shape; None if it does not fit. Linear layers accept
        only vectors here, although torch's accept more dimensions."""
        found: list[Shape] = []
        for layer in self.layers:
            after = layer.shape(found[-1] if found else example)
            if after is None:
                return None
            found.append(after)
        return tuple(found)


def chain_of(module: nn.Module) -> Chain | None:
    """Returns the module as a chain, its parameters laid out in the order of `module.named_parameters()`; or None.

    Only layers whose type is exactly one of torch's own qualify, alone or in (nested) nn.Sequential: Linear, Conv2d
    (zero padding, one group, no dilation), MaxPool2d (windows without overlap), Flatten, ReLU, Tanh, Sigmoid, GELU, and
    Identity and Dropout(0), which are left out. Subclasses, hooks, shared parameters, constants and buffers do not.
    """
    parameters = _slices(module)
    leaves = _leaves(module)
    if parameters is None or leaves is None:
        return None
    layers: list[Layer] = []
    for leaf in leaves:
        read = _READERS.get(type(leaf))
        layer = read(leaf, parameters) if read else None
        if layer is None:
            return None
        if not isinstance(layer, _Nothing) and not (isinstance(layer, Flat) and _is_flat(layers)):
            layers.append(layer)
    return Chain(tuple(layers), sum(p.numel() for p in module.parameters())) if layers and not parameters else None


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A layer that changes nothing."""


_Slices = dict[Tensor, slice]
"""Slice of each parameter that no layer has claimed yet (tensors are hashed by identity)."""


def _slices(module: nn.Module) -> _Slices | None:
    """Returns the parameters' slices; None if not all are trained float32, or there are buffers."""
    found, start = _Slices(), 0
    for parameter in module.parameters():
        if parameter.dtype != torch.float32 or not parameter.requires_grad or parameter._backward_hooks:
            return None
        found[parameter] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return None if list(module.buffers()) else found


def _leaves(module: nn.Module) -> list[nn.Module] | None:
    """Returns the layers in the order of application; None if anything else than they affects the computation."""
    if _is_altered(module):
        return None
    if type(module) is not nn.Sequential:
        return None if list(module.children()) else [module]
    found: list[nn.Module] = []
    for child in module:
        leaves = _leaves(child)
        if leaves is None:
            return None
        found += leaves
    return found


def _is_altered(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, name) for name in hooks)


def _is_flat(layers: list[Layer]) -> bool:
    before = [layer for layer in layers if not isinstance(layer, Activation)]
    return bool(before) and isinstance(before[-1], Dense | Flat)


def _claim(parameters: _Slices, layer: nn.Linear | nn.Conv2d) -> tuple[slice, slice | None] | None:
    """Returns the slices of weight and bias; None if another layer has claimed one of them."""
    if layer.weight not in parameters or (layer.bias is not None and layer.bias not in parameters):
        return None
    return parameters.pop(layer.weight), None if layer.bias is None else parameters.pop(layer.bias)


def _dense(layer: nn.Linear, parameters: _Slices) -> Layer | None:
    claimed = _claim(parameters, layer)
    return claimed and Dense(*claimed, layer.in_features, layer.out_features)


def _convolution(layer: nn.Conv2d, parameters: _Slices) -> Layer | None:
    padding, plain = _padding(layer), layer.padding_mode == "zeros" and layer.groups == 1
    claimed = _claim(parameters, layer)
    if claimed is None or padding is None or not plain or _pair(layer.dilation) != (1, 1):
        return None
    sizes = _pair(layer.kernel_size), _pair(layer.stride), padding
    return Convolution(*claimed, layer.in_channels, layer.out_channels, *sizes)


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Returns the padding in numbers; None for "same" with a kernel of even size, which pads one side more than the
    other."""
    if not isinstance(layer.padding, str):
        return _pair(layer.padding)
    height, width = _pair(layer.kernel_size)
    if layer.padding == "valid":
        return 0, 0
    return (height // 2, width // 2) if height % 2 and width % 2 else None


def _max_pool(layer: nn.MaxPool2d, _: _Slices) -> Layer | None:
    kernel = _pair(layer.kernel_size)
    plain = _pair(layer.padding) == (0, 0) and _pair(layer.dilation) == (1, 1)
    side_by_side = _pair(layer.stride) == kernel and not layer.ceil_mode and not layer.return_indices
    return MaxPool(kernel) if plain and side_by_side else None


def _flat(layer: nn.Flatten, _: _Slices) -> Layer | None:
    return Flat() if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _gelu(layer: nn.GELU, _: _Slices) -> Layer | None:
    name = {"none": "gelu", "tanh": "gelu-tanh"}.get(layer.approximate)
    return None if name is None else Activation(name)


def _dropout(layer: nn.Dropout, _: _Slices) -> _Nothing | None:
    return None if layer.p else _Nothing()


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def _named(name: str) -> Callable[[nn.Module, _Slices], Layer]:
    return lambda layer, parameters: Activation(name)


_READERS: dict[type[nn.Module], Callable[..., Layer | _Nothing | None]] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _max_pool,
    nn.Flatten: _flat,
    nn.ReLU: _named("relu"),
    nn.Tanh: _named("tanh"),
    nn.Sigmoid: _named("sigmoid"),
    nn.GELU: _gelu,
    nn.Identity: lambda layer, parameters: _Nothing(),
    nn.Dropout: _dropout,
}


def _gelu_function(approximate: str) -> Pointwise:
    forward = partial(nn.functional.gelu, approximate=approximate)
    backward = partial(torch.ops.aten.gelu_backward, approximate=approximate)
    return Pointwise(forward, lambda d, z, h: backward(d, z), from_output=False)


ACTIVATIONS: dict[str, Pointwise] = {
    "relu": Pointwise(torch.relu, lambda d, z, h: torch.ops.aten.threshold_backward(d, h, 0), from_output=True),
    "tanh": Pointwise(torch.tanh, lambda d, z, h: torch.ops.aten.tanh_backward(d, h), from_output=True),
    "sigmoid": Pointwise(torch.sigmoid, lambda d, z, h: torch.ops.aten.sigmoid_backward(d, h), from_output=True),
    "gelu": _gelu_function("none"),
    "gelu-tanh": _gelu_function("tanh"),
}
"""Name -> function, with the formulas that autograd uses; the gradient of ReLU at 0 is 0."""

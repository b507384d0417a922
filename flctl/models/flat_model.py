"""A torch module as flat vectors: the form in which models are trained, sent and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flctl.errors import ConfigError, IncompatibleError
from flctl.models.parts import Outline, Part
from flctl.types import Arrays, Layout

__all__ = ["FlatModel", "tensor"]


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
                "the model has no trainable parameters", hint="Set requires_grad on at least one parameter."
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
        """{"params": D, "buffers": B}, the latter only if B > 0."""
        buffers = sum(self._buffer_sizes)
        return {"params": self.params.numel()} | ({"buffers": buffers} if buffers else {})

    @property
    def parts(self) -> list[Part]:
        """The position of each parameter and buffer in the vectors, in order."""
        trained = {id(parameter) for parameter in self.parameters}
        names = [name for name, parameter in self.module.named_parameters() if id(parameter) in trained]
        return [
            *self._parts("params", names, self._sizes),
            *self._parts("buffers", self._buffer_names, self._buffer_sizes),
        ]

    @property
    def outline(self) -> Outline:
        """The parts and shapes of the model, without torch."""
        return Outline(tuple(self.parts), tuple(tuple(shape) for shape in self._shapes))

    @property
    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes of the parameters that lie end to end in "params"."""
        return {"params": [tuple(shape) for shape in self._shapes]}

    def load(self, arrays: Arrays) -> None:
        """Copies vectors in. Raises IncompatibleError, and changes nothing, if they do not have the layout `layout`."""
        self._check(arrays)
        self.params.numpy()[:] = arrays["params"]
        if "buffers" in arrays:
            parts = torch.split(tensor(arrays["buffers"]), self._buffer_sizes)
            for buffer, part in zip(self._buffers(), parts, strict=True):
                exact = buffer.is_floating_point()
                buffer.copy_((part if exact else part.round()).view(buffer.shape))

    def read(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns copies of the vectors: "params" [D] and, if B > 0, "buffers" [B], float32."""
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

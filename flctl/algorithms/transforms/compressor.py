"""What compressing transforms have in common: which vectors they take, and error feedback."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, SharedContext, Transform
from flctl.errors import FlctlError, ProtocolError
from flctl.types import Arrays, ClientUpdate, Layout

__all__ = [
    "CODE",
    "LARGEST",
    "Compressor",
    "ErrorFeedback",
    "Parts",
    "Values",
    "checked",
    "compressible",
    "in_range",
    "share",
]

CODE = ":"
"""Between a vector's name and that of a part of its code which is exact, and which nobody compresses further."""
LARGEST = float(np.finfo(np.float32).max)
_RESIDUAL = "residual."
_ROUNDING = 1e-9
"""So that 0.07 of 100 values, 7.000000000000001 in floating point, are 7."""

Values = npt.NDArray[np.float32]
Parts = dict[str, npt.NDArray[Any]]
"""A vector's code: the ending of the name under which each part travels -> the part."""


def compressible(name: str, length: int) -> bool:
    """Whether the vector `name` is compressed: a model's running statistics, single numbers and codes travel as they
    are. (A variance that lost its sign is none, and a number is no cost.)"""
    return name != "buffers" and length > 1 and CODE not in name


def share(fraction: float, length: int) -> int:
    """How many values a fraction of so many is, rounded up: at least one."""
    return max(1, math.ceil(fraction * length - _ROUNDING))


def in_range(values: npt.NDArray[Any]) -> Values:
    """The values as float32, those beyond its range as its largest."""
    return np.asarray(np.clip(values, -LARGEST, LARGEST), np.float32)


class Compressor(Transform):
    """A transform that sends a code for each vector; a subclass says how one vector is coded."""

    @abstractmethod
    def parts(self, length: int) -> Layout:
        """Ending of the name -> length of each part of the code of a vector; the ending "" is the vector's own."""

    @abstractmethod
    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        """Client: the code of a vector."""

    @abstractmethod
    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[Any]:
        """Both sides: the vector that a code stands for. Raises ProtocolError for none."""

    def sends(self, layout: Layout) -> Layout:
        sent: dict[str, int] = {}
        for name, length in layout.items():
            parts = self.parts(length) if compressible(name, length) else {"": length}
            sent |= {name + ending: size for ending, size in parts.items()}
        return sent

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        coded: Parts = {}
        for name, vector in update.arrays.items():
            if not compressible(name, vector.size):
                coded[name] = vector
                continue
            if vector.dtype.kind != "f":
                hint = f"Put it before what makes whole numbers of '{name}'."
                raise FlctlError(f"{self.name} compresses fractions, and '{name}' holds whole numbers", hint=hint)
            values = self.corrected(name, vector, ctx)
            coded |= {name + ending: part for ending, part in self.code(name, values, ctx).items()}
        return dataclasses.replace(update, arrays=coded)

    def decode(self, vectors: Arrays, ctx: SharedContext) -> Arrays:
        decoded: Parts = {}
        for name, length in ctx.layout.items():
            if compressible(name, length):
                parts = {ending: vectors[name + ending] for ending in self.parts(length)}
                decoded[name] = self.value(name, parts, length, ctx)
            else:
                decoded[name] = vectors[name]
        return decoded

    def corrected(self, name: str, values: npt.NDArray[Any], ctx: ClientContext) -> Values:
        """Client: what is to be coded in the place of a vector."""
        return in_range(values)


class ErrorFeedback(Compressor):
    """A compressor whose clients add what was not sent to what they send next (Karimireddy et al. 2019, Algorithm 2).

    p_t = v_t + e_t is coded; e_{t+1} = p_t - q_t, where q_t is what the server makes of p_t's code, whatever later
    transforms did to it. So what was sent and the residual sum up to the true updates.
    """

    class Config(Compressor.Config):
        error_feedback: bool = Field(
            True, description="Clients remember what was not sent and add it to their next update."
        )

    def remembers(self, layout: Layout) -> Layout:
        return self._residuals(layout)

    def _residuals(self, layout: Layout) -> Layout:
        if not self.config.error_feedback:
            return {}
        return {_RESIDUAL + name: length for name, length in layout.items() if compressible(name, length)}

    def corrected(self, name: str, values: npt.NDArray[Any], ctx: ClientContext) -> Values:
        residual = ctx.memory.get(_RESIDUAL + name)
        return in_range(values) if residual is None else in_range(values.astype(np.float64) + residual)

    def keeps(self, given: ClientUpdate, sent: ClientUpdate, arrived: Arrays, ctx: ClientContext) -> Arrays:
        kept = {}
        for key in self._residuals(ctx.shared.layout):
            name = key.removeprefix(_RESIDUAL)
            residual = self.corrected(name, given.arrays[name], ctx)
            # An update of weight 0 counts for nothing: nothing of it was sent.
            kept[key] = in_range(residual - arrived[name].astype(np.float64)) if given.weight else residual
        return kept


def checked(condition: bool, sentence: str) -> None:
    """Raises ProtocolError unless the condition holds."""
    if not condition:
        raise ProtocolError(sentence)

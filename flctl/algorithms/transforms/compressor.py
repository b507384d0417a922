"""Base classes of compressing transforms: the vectors that are compressed, and error feedback."""

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
"""Separates a vector's name from that of a part of its code. Such parts are exact and never compressed again."""
LARGEST = float(np.finfo(np.float32).max)
_RESIDUAL = "residual."
_ROUNDING = 1e-9
"""Tolerance of ceil(fraction n): 0.07 of 100 values is 7.000000000000001 in floating point, and means 7."""

Values = npt.NDArray[np.float32]
Parts = dict[str, npt.NDArray[Any]]
"""A vector's code: name suffix -> part. Each part is sent as a vector of its own."""


def compressible(name: str, length: int) -> bool:
    """Returns True if the vector `name` is compressed. Buffers, single numbers and codes are sent unchanged: a running
    variance must stay positive, and a single number costs nothing."""
    return name != "buffers" and length > 1 and CODE not in name


def share(fraction: float, length: int) -> int:
    """Returns `fraction` of `length` values, rounded up: at least one."""
    return max(1, math.ceil(fraction * length - _ROUNDING))


def in_range(values: npt.NDArray[Any]) -> Values:
    """Returns the values as float32, clamped to its finite range."""
    return np.asarray(np.clip(values, -LARGEST, LARGEST), np.float32)


class Compressor(Transform):
    """A transform that sends a code for each vector; a subclass defines the code of one vector."""

    @abstractmethod
    def parts(self, length: int) -> Layout:
        """Returns name suffix -> length for each part of a vector's code; the suffix "" is the vector's own name."""

    @abstractmethod
    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        """Client: returns the code of a vector."""

    @abstractmethod
    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[Any]:
        """Both sides: returns the vector that a code stands for. Raises ProtocolError for an invalid code."""

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
                hint = f"Put '{self.name}' before the transform that rounds '{name}' to integers."
                raise FlctlError(f"{self.name} compresses floating point, and '{name}' holds integers", hint=hint)
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
        """Client: returns the values to encode for a vector."""
        return in_range(values)


class ErrorFeedback(Compressor):
    """A compressor whose clients add the compression error to their next update (Karimireddy et al. 2019, Algorithm 2).

    p_t = v_t + e_t is encoded; e_{t+1} = p_t - q_t, where q_t is the server's reconstruction of p_t after all later
    transforms. So the updates sent plus the residual equal the sum of the true updates.
    """

    class Config(Compressor.Config):
        error_feedback: bool = Field(
            True, description="Clients keep the compression error and add it to their next update."
        )

    def remembers(self, layout: Layout) -> Layout:
        return self._residuals(layout)

    def _residuals(self, layout: Layout) -> Layout:
        if not self.config.error_feedback:
            return {}
        return {_RESIDUAL + name: length for name, length in layout.items() if compressible(name, length)}

    def corrected(self, name: str, values: npt.NDArray[Any], ctx: ClientContext) -> Values:
        # float64: a residual kept over many rounds would lose small values in a float32 sum.
        residual = ctx.memory.get(_RESIDUAL + name)
        return in_range(values) if residual is None else in_range(values.astype(np.float64) + residual)

    def keeps(self, given: ClientUpdate, sent: ClientUpdate, arrived: Arrays, ctx: ClientContext) -> Arrays:
        kept = {}
        for key in self._residuals(ctx.shared.layout):
            name = key.removeprefix(_RESIDUAL)
            residual = self.corrected(name, given.arrays[name], ctx)
            # An update of weight 0 does not enter the sum: all of it remains to be sent.
            kept[key] = in_range(residual - arrived[name].astype(np.float64)) if given.weight else residual
        return kept


def checked(condition: bool, sentence: str) -> None:  # noqa: FBT001
    """Raises ProtocolError with `sentence` unless the condition holds."""
    if not condition:
        raise ProtocolError(sentence)

"""Floating-point formats of 16 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flctl.algorithms.transform import ClientContext, SharedContext
from flctl.algorithms.transforms.compressor import CODE, Compressor, Parts, Values, checked
from flctl.types import Layout

_WORDS = CODE + "bfloat16"
_LARGEST_HALF = float(np.finfo(np.float16).max)
_LARGEST_WORD = np.uint32(0x7F7F)
"""The largest finite bfloat16, 3.39e38."""


class Float16(Compressor):
    """Values as IEEE half precision, to the nearest: 3 digits from 6e-5 to 65504, fewer down to 6e-8.

    Larger values become 65504, smaller ones 0.
    """

    name = "float16"

    def parts(self, length: int) -> Layout:
        return {CODE + "float16": length}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        # Clamped: infinity in one coordinate would fail the finiteness check and discard the whole update.
        return {CODE + "float16": np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        found = parts[CODE + "float16"]
        checked(found.dtype == np.float16, f"'{name}' is {found.dtype}, expected float16")
        return found.astype(np.float32)


class BFloat16(Compressor):
    """Values as bfloat16, to the nearest: the range of float32 with 2 digits (Kalamkar et al. 2019)."""

    name = "bfloat16"

    def parts(self, length: int) -> Layout:
        return {_WORDS: length}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        return {_WORDS: _upper_halves(values)}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        found = parts[_WORDS]
        checked(found.dtype == np.uint16, f"'{name}' is {found.dtype}, expected uint16")
        return (found.astype(np.uint32) << 16).view(np.float32)


def _upper_halves(values: Values) -> npt.NDArray[np.uint16]:
    """Returns the upper 16 bits of each float32, rounded to nearest, ties to even; clamped to the largest finite
    value."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Adds half a unit of the last kept bit, and one more if that bit is odd: ties go to even, so rounding has no bias.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding up may carry into the exponent of infinity (0x7F80): the magnitude is clamped to the largest finite one.
    sign = rounded & np.uint32(0x8000)
    return np.asarray(sign | np.minimum(rounded & np.uint32(0x7FFF), _LARGEST_WORD), np.uint16)

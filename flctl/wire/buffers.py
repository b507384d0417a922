"""Allocators for a chunk's result arrays: the heap here, or shared memory that an engine supplies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HEAP", "Allocator"]


class Allocator:
    """The heap."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """A new array."""
        return np.empty(shape, dtype)

    def joined(self, blocks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The rows of all blocks [K, L], one after the other."""
        rows, dtype = sum(len(block) for block in blocks), np.result_type(*blocks)
        return np.concatenate(blocks, out=self.empty((rows, *blocks[0].shape[1:]), dtype))


HEAP = Allocator()

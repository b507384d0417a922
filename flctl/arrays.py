"""Maths on named flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from flctl.types import Arrays, Layout

__all__ = [
    "accumulate",
    "clip",
    "frozen",
    "is_finite",
    "layout_of",
    "misfit",
    "nbytes",
    "norm",
    "scale",
    "weigh",
    "weighed_dtype",
    "zeros",
]

LONG = 1 << 22
"""Values of a vector beyond which two threads share the work."""
Result = TypeVar("Result")


def layout_of(arrays: Arrays) -> Layout:
    """Name -> length of each vector."""
    return {name: int(array.size) for name, array in arrays.items()}


def frozen(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Returns read-only views; changing one in place raises ValueError."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def misfit(arrays: Any, layout: Layout | None = None) -> str | None:
    """Describes why a value is not a mapping of flat numeric vectors, with the given layout if there is one; None if it
    is."""
    if not isinstance(arrays, Mapping):
        return f"{type(arrays).__name__}, expected named vectors"
    for name, array in arrays.items():
        if not (isinstance(name, str) and isinstance(array, np.ndarray)):
            return f"{type(array).__name__} under {name!r}, expected a numpy vector under a name"
        if array.ndim != 1 or array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
            return f"'{name}' of shape {array.shape} and dtype {array.dtype}, expected one dimension and numbers"
    found = layout_of(arrays)
    if layout is not None and found != dict(layout):
        return f"the vectors {found}, expected {dict(layout)}"
    return None


def zeros(layout: Layout, dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[Any]]:
    """Zero vectors of a layout."""
    return {name: np.zeros(length, dtype) for name, length in layout.items()}


def accumulate(total: Mapping[str, npt.NDArray[Any]], arrays: Arrays, weight: float = 1.0) -> None:
    """Adds `weight * arrays` to `total` in place; one pass over memory where the weight is one."""
    for name, target in total.items():
        if weight == 1.0:
            _spread(partial(_add_part, target, arrays[name]), target.size)
        else:
            np.add(target, np.multiply(arrays[name], weight, dtype=target.dtype), out=target)


def scale(arrays: Arrays, factor: float) -> dict[str, npt.NDArray[Any]]:
    """Each vector times `factor`, dtype kept; zeros for a factor of 0, since 0 times NaN would be NaN."""
    if factor == 0:
        return {name: np.zeros_like(array) for name, array in arrays.items()}
    return {name: array * array.dtype.type(factor) for name, array in arrays.items()}


def weigh(arrays: Arrays, weight: float) -> dict[str, npt.NDArray[Any]]:
    """Each vector times a client's weight, wide enough to be added up: fractions at least float32; whole numbers
    int64, for which the weight must be whole. What leaves the range of its dtype is infinite."""
    wide = {name: array.astype(weighed_dtype(array.dtype), copy=False) for name, array in arrays.items()}
    with np.errstate(over="ignore"):
        return {name: array * array.dtype.type(weight) for name, array in wide.items()}


def weighed_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns the dtype of vectors of this dtype after `weigh`."""
    return np.result_type(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.int64)


def norm(arrays: Arrays) -> float:
    """The L2 norm over all vectors together, accumulated in float64."""
    return math.sqrt(sum(float(np.dot(a, a)) for a in (v.astype(np.float64) for v in arrays.values())))


def clip(arrays: Arrays, bound: float) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """The vectors scaled down to an L2 norm of at most `bound` together, and the norm they had."""
    length = norm(arrays)
    return (dict(arrays) if length <= bound else scale(arrays, bound / length)), length


def is_finite(arrays: Arrays) -> bool:
    """True if all values are finite."""
    return all(_all_finite(array) for array in arrays.values())


def _all_finite(array: npt.NDArray[Any]) -> bool:
    """True if all values are finite. A NaN or an infinity makes a product of the values not finite, which is found at
    the speed of memory and without a copy. Large finite values may overflow it too; only then is each value tested."""
    if array.dtype.kind != "f":
        return True
    array = array.reshape(-1)
    if array.dtype.itemsize < np.dtype(np.float32).itemsize:
        return bool(np.isfinite(array).all())
    return all(_spread(partial(_part_finite, array), array.size))


def _part_finite(array: npt.NDArray[Any], part: slice) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.dot(array[part], array[part])
    return bool(np.isfinite(product)) or bool(np.isfinite(array[part]).all())


def _add_part(target: npt.NDArray[Any], array: npt.NDArray[Any], part: slice) -> None:
    np.add(target[part], array[part], out=target[part])


def _spread(work: Callable[[slice], Result], size: int) -> list[Result]:
    """Applies an elementwise `work` to a vector: at once, or for a long vector to two halves in parallel threads,
    because one core cannot use the full memory bandwidth. The values are the same either way."""
    if size < LONG:
        return [work(slice(0, size))]
    middle = size // 2 // 16 * 16
    with ThreadPoolExecutor(1) as other:
        second = other.submit(work, slice(middle, size))
        return [work(slice(0, middle)), second.result()]


def nbytes(arrays: Arrays) -> int:
    """Bytes of all vectors together."""
    return sum(array.nbytes for array in arrays.values())

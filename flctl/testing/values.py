"""Comparing and copying what components take and give: arrays, tensors, mappings and frozen values of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["copied", "difference", "gap", "vectors_close"]


_DEEPEST = 12


def copied(value: Any) -> Any:
    """A deep copy whose arrays can be written to, so that a change in place is detected; the value itself
    if it cannot be copied (a lock, a generator)."""
    try:
        return copy.deepcopy(value)
    except TypeError:
        return value


def difference(one: Any, other: Any, at: str = "") -> str | None:
    """Describes in a few words where two values differ, bit for bit; None if they do not. NaN equals NaN, and two
    random generators are equal."""
    return next(_differences(one, other, at), None)


def _differences(one: Any, other: Any, at: str, depth: int = 0) -> Iterator[str]:
    if one is other or depth > _DEEPEST or isinstance(one, np.random.Generator):
        return  # drawing from a generator is what it is there for
    if type(one) is not type(other):
        yield f"{at or 'it'} is {type(one).__name__} once and {type(other).__name__} once"
    elif isinstance(one, np.ndarray) or hasattr(one, "detach"):
        yield from _arrays(one, other, at)
    elif (parts := _parts(one)) is not None:
        yield from _mappings(parts, _parts(other) or {}, at, depth)
    elif isinstance(one, Sequence) and not isinstance(one, (str, bytes)):
        yield from _sequences(one, other, at, depth)
    elif repr(one) != repr(other):  # numbers and text; NaN is NaN
        yield f"{at or 'it'} is {one!r:.60} once and {other!r:.60} once"


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """Returns the parts of a mapping, a frozen value, or an object without an equality of its own; None for other
    values."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if getattr(type(value), "__eq__", None) is object.__eq__ and hasattr(value, "__dict__") and not callable(value):
        return dict(vars(value))
    return None


def _arrays(one: Any, other: Any, at: str) -> Iterator[str]:
    first, second = np.asarray(one), np.asarray(other)
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        yield f"{at or 'it'} is {first.dtype} {first.shape} once and {second.dtype} {second.shape} once"
    elif not np.array_equal(first, second, equal_nan=first.dtype.kind in "fc"):
        yield f"{at or 'it'} differs by up to {gap(first, second):.3g}"


def _mappings(one: Mapping[Any, Any], other: Mapping[Any, Any], at: str, depth: int) -> Iterator[str]:
    if set(one) != set(other):
        yield f"{at or 'it'} has {sorted(map(str, one))} once and {sorted(map(str, other))} once"
        return
    for key, value in one.items():
        yield from _differences(value, other[key], f"{at}['{key}']" if at else str(key), depth + 1)


def _sequences(one: Sequence[Any], other: Sequence[Any], at: str, depth: int) -> Iterator[str]:
    if len(one) != len(other):
        yield f"{at or 'it'} has {len(one)} items once and {len(other)} once"
        return
    for index, (first, second) in enumerate(zip(one, other, strict=True)):
        yield from _differences(first, second, f"{at}[{index}]", depth + 1)


def gap(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """The largest absolute difference of two arrays of one shape; infinite where only one of them is finite."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second)
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def vectors_close(
    one: Mapping[str, npt.NDArray[Any]], other: Mapping[str, npt.NDArray[Any]], tolerance: float
) -> str | None:
    """Describes where named vectors differ by more than `tolerance` times their largest value; None if they do not."""
    if {n: v.shape for n, v in one.items()} != {n: v.shape for n, v in other.items()}:
        return difference({n: v.shape for n, v in one.items()}, {n: v.shape for n, v in other.items()})
    for name, vector in one.items():
        scale = max(float(np.abs(vector).max(initial=0)), float(np.abs(other[name]).max(initial=0)))
        apart = gap(vector, other[name])
        if apart > tolerance * scale:
            return f"'{name}' differs by up to {apart:.3g} where its largest value is {scale:.3g}"
    return None

"""Types of scheme options: each accepts what YAML gives and what a flag gives, `--sizes 10,20` as `[10, 20]`."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

__all__ = ["Bins", "Concentration", "Numbers", "Pairs", "SizeList"]

LARGEST_CONCENTRATION = 1e9


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _number(value: Any) -> int | float:
    """Raises ValueError for what is not a finite number; "3" stays an integer, "3.0" a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a number, found {value!r}")
    number = _parsed(value) if isinstance(value, str) else value
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {number}")
    return number


def _parsed(text: str) -> int | float:
    try:
        return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"expected a number, found '{text}'") from None


def _sizes(value: Any) -> Any:
    """Row numbers, or shares of all rows where any of them is not an integer."""
    if value is None:
        return None
    items = _split(value)
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError("expected a list of sizes, for example 100,200,300 or 0.5,0.3,0.2")
    numbers = [_number(item) for item in items]
    if min(numbers) <= 0:
        raise ValueError(f"every size must be above 0, found {min(numbers)}")
    if all(isinstance(number, int) for number in numbers):
        return tuple(numbers)
    if max(numbers) > 1 or math.fsum(numbers) > 1 + 1e-9:
        raise ValueError("shares must be at most 1 and sum to at most 1; row numbers must be integers")
    return tuple(float(number) for number in numbers)


def _concentration(value: Any) -> Any:
    """One number, or one for each client (inner-dirichlet: for each class)."""
    items = _split(value)
    numbers = [float(_number(item)) for item in (items if isinstance(items, (list, tuple)) else [items])]
    for number in numbers:
        if not 0 < number <= LARGEST_CONCENTRATION:
            raise ValueError(f"must be above 0 and at most {LARGEST_CONCENTRATION:g}, found {number:g}")
    if not numbers:
        raise ValueError("expected a number above 0")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in _split(value)]
    if not all(sign and key.strip() for key, sign, _ in pairs):
        raise ValueError("expected KEY=VALUE[,KEY=VALUE], for example alpha=0.3,min_size=5")
    return {key.strip().replace("-", "_"): text.strip() for key, _, text in pairs}


Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
SizeList = Annotated[tuple[int, ...] | tuple[float, ...], BeforeValidator(_sizes)]
Concentration = Annotated[float | tuple[float, ...], BeforeValidator(_concentration)]
Pairs = Annotated[dict[str, Any], BeforeValidator(_pairs)]
Bins = Annotated[int, Field(ge=2, le=1000)]

"""Figures of a guarantee as text. A guarantee is rounded up: a smaller number would promise what was not shown."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

__all__ = ["ABOVE_WHICH_WEAK", "rounded_up", "weak"]

ABOVE_WHICH_WEAK = 20.0
"""Epsilon above which a run warns: e^20 is 5e8, so that nearly any event may tell two neighbours apart."""


def rounded_up(value: float, digits: int = 4) -> str:
    """The least number of `digits` significant digits that is not below `value`.

    >>> rounded_up(5.968428), rounded_up(4.0), rounded_up(float("inf"))
    ('5.969', '4', 'inf')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    exact = Decimal(value)
    step = Decimal((0, (1,), exact.adjusted() - digits + 1))
    return f"{float(exact.quantize(step, ROUND_CEILING)):.{digits}g}"


def weak(epsilon: float) -> str | None:
    """A warning if epsilon is so large that it promises little; None otherwise."""
    if epsilon <= ABOVE_WHICH_WEAK:
        return None
    return (
        f"epsilon {rounded_up(epsilon)} is above {ABOVE_WHICH_WEAK:g}: it hardly limits an attacker's inference about "
        "a client"
    )

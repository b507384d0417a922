"""Sizes of a plan's messages: what a round brings to a site and takes from it."""

from __future__ import annotations

from flctl.federation.plan.plan import Plan

__all__ = ["bytes_a_round", "bytes_down", "bytes_up"]

WIDEST = 8
"""Bytes of the widest value of an update."""
VALUE = 4
"""Bytes of a value of the model: float32."""
SLACK = 1 << 16
"""Bytes of a message beside its vectors."""


def bytes_down(plan: Plan) -> int:
    """Returns the most bytes that a site receives in a round: the model and what strategy and transforms broadcast."""
    return VALUE * sum(plan.derived.broadcast.values()) + SLACK


def bytes_up(plan: Plan) -> int:
    """Returns the most bytes of a site's update."""
    return WIDEST * sum(plan.derived.layout.values()) + SLACK


def bytes_a_round(plan: Plan) -> int:
    """Returns the most bytes that a round moves, both ways."""
    return bytes_down(plan) + bytes_up(plan)

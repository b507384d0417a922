"""Printed profile of a run: seconds by phase, their share of the whole, and seconds per round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flctl.cli import output
from flctl.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["render"]


def render(console: Console, profile: Mapping[str, Any]) -> None:
    """Prints a profile as profile.json has it."""
    seconds, (first, last) = profile["seconds"], profile["rounds"].values()
    played = max(last - first + 1, 1)
    rows = [(f"start-up: {name}", value, None) for name, value in profile["startup"].items()]
    rows += [(name, value, value / played) for name, value in profile["phases"].items() if value]
    rows.append(("finish", seconds["finish"], None))
    rows.append(("total", seconds["total"], seconds["rounds"] / played))
    cells = ((name, f"{value:.3f}", _share(value, seconds["total"]), _each(each)) for name, value, each in rows)
    output.table(console, ("phase", "seconds", "share", "ms a round"), cells, title=f"rounds {first} to {last}")
    if profile["utilisation"] is not None:
        who = counted(profile["workers"], "worker") if profile["workers"] > 1 else "the training process"
        console.print(f"{who} worked {profile['utilisation']:.0%} of the time that the server waited", markup=False)


def _share(value: float, total: float) -> str:
    return f"{value / total:.1%}" if total else ""


def _each(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"

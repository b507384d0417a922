"""A profile, drawn: seconds by phase, round by round and altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.errors import counted
from flctl.performance.duration import seconds_text
from flctl.performance.profile import PHASES
from flctl.report.figure import GREY, empty, legend, new_figure, save, style
from flctl.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_phases"]

COLOURS = {
    "select": "#56B4E9",
    "load": "#CC79A7",
    "train": "#0072B2",
    "transform": "#E69F00",
    "wait": "#D0D0D0",
    "aggregate": "#009E73",
    "evaluate": "#D55E00",
    "checkpoint": "#000000",
    "other": "#7F7F7F",
    "start-up": "#44AA99",
    "finish": "#AA4499",
}
BARS = 60


def draw_phases(profile: Mapping[str, Any], out: Path) -> Path:
    """A PNG or SVG of a profile as profile.json has it: stacked bars by round, and the whole process by phase."""
    figure = new_figure(12, 4.2)
    by_round, whole = figure.subplots(1, 2, width_ratios=(5, 3))
    _draw_rounds(by_round, profile["each"])
    _draw_whole(whole, profile)
    legend(figure, by_round)
    return save(figure, out)


def _draw_rounds(axes: Axes, each: Sequence[Mapping[str, float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    if not each:
        empty(axes, "no rounds were trained")
    groups = np.array_split(np.arange(len(each)), min(len(each), BARS)) if each else []
    rounds = np.array([np.mean([each[index]["round"] for index in group]) for group in groups])
    base = np.zeros(len(groups))
    for name in PHASES:
        height = np.array([np.mean([each[index][name] for index in group]) for group in groups]) * 1e3
        if height.any():
            axes.bar(rounds, height, _width(rounds), base, color=COLOURS[name], label=name, linewidth=0)
            base += height
    averaged = f", each bar the mean of {counted(len(groups[0]), 'round')}" if groups and len(groups[0]) > 1 else ""
    style(axes, x=f"round{averaged}", y="milliseconds", title="A round by phase")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")


def _width(rounds: FloatArray) -> float:
    return 0.85 * float(np.diff(rounds).min()) if len(rounds) > 1 else 0.85


def _draw_whole(axes: Axes, profile: Mapping[str, Any]) -> None:
    """The process from its start to its end, each part a bar with its share."""
    seconds, phases = profile["seconds"], profile["phases"]
    parts = {"start-up": seconds["startup"], **{name: phases[name] for name in PHASES}, "finish": seconds["finish"]}
    shown = [(name, value) for name, value in parts.items() if value > 0]
    positions = np.arange(len(shown))[::-1]
    axes.barh(positions, [value for _, value in shown], 0.72, color=[COLOURS[name] for name, _ in shown])
    for index, (_, value) in zip(positions, shown, strict=True):
        axes.annotate(
            f"{seconds_text(value)}, {value / seconds['total']:.1%}",
            (value, index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY,
        )
    style(axes, x="seconds", y="", title=f"The whole process: {seconds_text(seconds['total'])}")
    axes.set_yticks(positions, [name for name, _ in shown])
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.3)

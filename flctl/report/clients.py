"""One metric over the clients, drawn: from worst to best, and against size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flctl.evaluation.evaluate import ClientScores
from flctl.metrics import METRICS
from flctl.report.figure import GREY, PALETTE, empty, legend, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_clients"]

FEW = 60


def draw_clients(runs: Mapping[str, ClientScores], metric: str, out: Path) -> Path:
    """A PNG or SVG of a metric's spread, a colour for each run, with each run's mean over clients dotted.

    Raises ConfigError where `out` exists."""
    figure = new_figure(11, 4.2)
    order, size = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, (name, scores) in enumerate(runs.items()):
        colour = PALETTE[index % len(PALETTE)]
        _draw_order(order, scores, metric, name, colour)
        _draw_size(size, scores, metric, colour)
    label = METRICS[metric].label
    style(
        order,
        x="clients, from worst to best (%)",
        y=label,
        title=f"{label[:1].upper()}{label[1:]} by client (dotted: mean)",
    )
    style(size, x="rows of the client (training and test)", y=label, title="By size")
    _mark_worst(order)
    if not order.get_lines():
        empty(order, "no client has a value of this metric")
    legend(figure, order)
    return save(figure, out, replace=False)


def _draw_order(axes: Axes, scores: ClientScores, metric: str, name: str, colour: str) -> None:
    values = scores.values[metric]
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return
    if not METRICS[metric].higher_is_better:
        values = values[::-1]
    share = (np.arange(len(values)) + 0.5) / len(values) * 100
    axes.plot(
        share, values, color=colour, label=name, linewidth=1.8, marker="o" if len(values) <= FEW else None, markersize=3
    )
    axes.axhline(float(values.mean()), color=colour, linestyle=":", linewidth=1.2)


def _mark_worst(axes: Axes) -> None:
    axes.set_xlim(0, 100)
    axes.axvspan(0, 10, color="#000000", alpha=0.06, linewidth=0)
    axes.annotate(
        "worst\ndecile", (5, 1), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8, color=GREY
    )


def _draw_size(axes: Axes, scores: ClientScores, metric: str, colour: str) -> None:
    values = scores.values[metric]
    kept = np.isfinite(values)
    if not kept.any():
        return
    sizes, values = scores.sizes[kept], values[kept]
    alpha = float(np.clip(60 / len(values), 0.05, 0.8))
    axes.scatter(sizes, values, s=14, color=colour, alpha=alpha, linewidths=0, rasterized=len(values) > 5000)
    if sizes.min() > 0 and sizes.max() / sizes.min() > 20:
        axes.set_xscale("log")

"""One metric over the clients, drawn: from worst to best, and against size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flctl.evaluation.evaluate import ClientScores
from flctl.metrics import METRICS
from flctl.report.figure import GREY, PALETTE, empty, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_order", "draw_sizes"]

FEW = 60


def draw_order(axes: Axes, runs: Mapping[str, ClientScores], metric: str) -> None:
    """Draws a metric of clients from worst to best, a colour for each run, with each run's mean over clients dotted."""
    for index, (name, scores) in enumerate(runs.items()):
        _draw_order(axes, scores, metric, name, PALETTE[index % len(PALETTE)])
    label = METRICS[metric].label
    style(axes, x="clients, from worst to best (%)", y=label, title="By client (dotted: mean)")
    _mark_worst(axes)
    if not axes.get_lines():
        empty(axes, "no client has a value of this metric")


def draw_sizes(axes: Axes, runs: Mapping[str, ClientScores], metric: str) -> None:
    """Draws a metric of clients against their number of rows, a colour for each run."""
    for index, scores in enumerate(runs.values()):
        _draw_size(axes, scores, metric, PALETTE[index % len(PALETTE)])
    style(axes, x="rows of the client", y=METRICS[metric].label, title="By size of the client")


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
    _whole_numbers(axes)
    if sizes.min() > 0 and sizes.max() / sizes.min() > 20:
        _logarithmic(axes)


def _whole_numbers(axes: Axes) -> None:
    """Ticks at whole numbers of rows, a few thousand as `4,000`."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _logarithmic(axes: Axes) -> None:
    """A logarithmic scale of rows, with few labels, so that they do not overlap within one decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())

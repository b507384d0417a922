"""A run beside its baselines, drawn: each client by name, its models' scores, and what federation gives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import counted
from flctl.metrics import METRICS
from flctl.report.baselines import GAIN, ComparedClients, verdict
from flctl.report.figure import GREY, PALETTE, empty, legend, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_baselines"]

MARKERS = {"alone": "o", "federated": "s", "pooled": "D", "personal": "^", "left-out": "x"}
"""A shape for each model, so that colour is not alone."""
SIZES = {"alone": 90, "federated": 22, "pooled": 46, "personal": 24, "left-out": 30}
"""Areas of the shapes, so that equal scores hide none."""
COLOURS = {"alone": 0, "federated": 1, "pooled": 2, "personal": 3, "left-out": 6}
MOST = 120
NAME = 24


def draw_baselines(compared: ComparedClients, out: Path) -> Path:
    """A PNG or SVG: on the left each client's scores, on the right what federation gives it, with intervals.

    Clients are named, and ordered from the largest loss to the largest gain; of more than 120 the ends are drawn.
    Raises ConfigError where `out` exists.
    """
    order = compared.order
    left_out = max(0, len(order) - MOST)
    shown = [*order[: MOST // 2], *order[-MOST // 2 :]] if left_out else order
    figure = new_figure(10, 2.2 + 0.19 * max(len(shown), 4))
    scores, gains = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_scores(scores, compared, shown)
    _draw_gains(gains, compared, shown)
    label = METRICS[compared.metric].label
    note = f" ({counted(left_out, 'client')} in between left out)" if left_out else ""
    style(scores, x=label, y="client", title=f"{label[:1].upper()}{label[1:]} on each client's test rows{note}")
    style(gains, x=f"difference in {label}", y="", title="Federated minus alone (95 % interval)")
    scores.set_yticks(range(len(shown)), [_name(compared.clients[k]) for k in shown])
    small = 8 if len(shown) <= 40 else 6.5
    scores.tick_params(axis="y", labelsize=small)
    scores.set_ylim(-0.7, len(shown) - 0.3)
    legend(figure, scores)
    return save(figure, out, replace=False)


def _name(client: str) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in client).replace("$", r"\$")
    return shown if len(shown) <= NAME else f"{shown[: NAME - 3]}..."


def _draw_scores(axes: Axes, compared: ComparedClients, shown: Sequence[int]) -> None:
    position = np.arange(len(shown))
    stacked = np.stack([values[list(shown)] for values in compared.values.values()])
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(stacked), np.fmax.reduce(stacked)
    axes.hlines(position, low, high, color="#CCCCCC", linewidth=1, zorder=1)
    for name, values in compared.values.items():
        filled = name != "alone"
        colour = PALETTE[COLOURS[name]]
        axes.scatter(
            values[list(shown)],
            position,
            marker=MARKERS[name],
            s=SIZES[name],
            label=f"{name} (mean {compared.means[name]:.3f})",
            facecolors=colour if filled else "white",
            edgecolors=None if name == "left-out" else colour,
            linewidths=1.3,
            zorder=3 if name == "federated" else 2,
        )


def _draw_gains(axes: Axes, compared: ComparedClients, shown: Sequence[int]) -> None:
    found = compared.differences.get(GAIN)
    if found is None:
        empty(axes, "no client was trained alone")
        return
    axes.axvline(0, color=GREY, linewidth=1)
    styles = {"gain": ("s", PALETTE[2]), "lose": ("v", PALETTE[1]), "undecided": ("o", PALETTE[6])}
    for name, (marker, colour) in styles.items():
        members = [
            (position, found[k])
            for position, k in enumerate(shown)
            if verdict(found[k], higher_is_better=compared.higher_is_better) == name and np.isfinite(found[k].value)
        ]
        for position, one in members:
            if one.low is not None and one.high is not None:
                axes.hlines(position, one.low, one.high, color=colour, linewidth=1.4)
        hollow = name == "undecided"
        axes.scatter(
            [one.value for _, one in members],
            [position for position, _ in members],
            marker=marker,
            s=26,
            facecolors="white" if hollow else colour,
            edgecolors=colour,
            zorder=3,
            label=f"{name} ({len(members)})" if members else "_",
        )
    axes.legend(fontsize=8, frameon=False, loc="best")

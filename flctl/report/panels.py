"""One picture of models on their test rows: the panels that apply to the task, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flctl.errors import ConfigError, suggest
from flctl.evaluation.evaluate import Evaluated
from flctl.evaluation.outcomes import RegressionOutcomes
from flctl.report.clients import draw_order, draw_sizes
from flctl.report.figure import PALETTE, new_figure, save
from flctl.report.quality import draw_pr, draw_reliability, draw_residuals, draw_roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PANELS", "draw_panels", "panels_of"]

PANELS = ("roc", "pr", "reliability", "residuals", "clients", "sizes")
DRAWN = {"roc": draw_roc, "pr": draw_pr, "reliability": draw_reliability, "residuals": draw_residuals}
ACROSS = 3
SIDE = 3.9
"""Inches of a panel's side."""


def panels_of(text: str | None) -> tuple[str, ...]:
    """Reads `roc,pr`; empty for None. Raises ConfigError for a panel that does not exist."""
    names = tuple(word.strip() for word in (text or "").split(",") if word.strip())
    for name in names:
        if name not in PANELS:
            hint = suggest(name, PANELS) or f"Known: {', '.join(PANELS)}."
            raise ConfigError(f"--panels: '{name}' is not a panel", hint=hint)
    return names


def draw_panels(models: Sequence[Evaluated], asked: Sequence[str], metric: str, out: Path) -> Path:
    """Draws the panels asked for, by default all that apply, as PNG or SVG; a colour for each model.

    Raises ConfigError where `out` exists, or for a panel that the task does not have.
    """
    able = _applicable(models)
    for name in asked:
        if name not in able:
            raise ConfigError(
                f"--panels: '{name}' does not apply to these models", hint=f"These do: {', '.join(able)}."
            )
    names = tuple(asked) or able
    rows, across = math.ceil(len(names) / ACROSS), min(len(names), ACROSS)
    figure = new_figure(SIDE * across, SIDE * rows + 0.3)
    shown = [figure.add_subplot(rows, across, index + 1) for index in range(len(names))]
    for axes, name in zip(shown, names, strict=True):
        _draw(axes, name, models, metric)
    _legend(figure, [model.name for model in models])
    return save(figure, out, replace=False)


def _draw(axes: Axes, name: str, models: Sequence[Evaluated], metric: str) -> None:
    if name in DRAWN:
        DRAWN[name](axes, list(models))
        return
    draw = draw_order if name == "clients" else draw_sizes
    draw(axes, {model.name: model.evaluation.clients for model in models}, metric)


def _applicable(models: Sequence[Evaluated]) -> tuple[str, ...]:
    first = models[0].evaluation.central_outcomes
    if isinstance(first, RegressionOutcomes):
        names = ["residuals"]
    else:
        names = ["reliability"] if first.log_probability is None else ["roc", "pr", "reliability"]
    if not any(model.withheld for model in models):
        names += ["clients", "sizes"]
    return tuple(names)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Names the models below all panels, if there are several."""
    from matplotlib.lines import Line2D

    if len(names) < 2:
        return
    handles = [
        Line2D([], [], color=PALETTE[index % len(PALETTE)], linewidth=1.8, label=name)
        for index, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 4), frameon=False, fontsize=9)

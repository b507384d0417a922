"""The look of every picture: one palette that colour-blind readers can tell apart, quiet axes, no global state."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from flctl import atomic
from flctl.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DASHES", "PALETTE", "empty", "format_of", "legend", "new_figure", "save", "style"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Okabe and Ito's colours (2008), the strong ones first; yellow is too faint on white."""
DASHES = ("-", "--", ":", "-.")
FORMATS = (".png", ".svg")
GREY = "#666666"


def _worth_telling(record: logging.LogRecord) -> bool:
    """True for records that are not about a home folder in which matplotlib cannot keep its cache: it takes another."""
    return not any(words in str(record.msg) for words in ("mkdir -p failed", "cache directory"))


logging.getLogger("matplotlib").addFilter(_worth_telling)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches; nothing of pyplot's global state is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def style(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Labels with units, a light grid, and no box."""
    axes.set_xlabel(x, fontsize=9, color=GREY)
    axes.set_ylabel(y, fontsize=9, color=GREY)
    axes.set_title(title, fontsize=11, loc="left")
    axes.tick_params(labelsize=8, colors=GREY)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")


def empty(axes: Axes, sentence: str) -> None:
    """Writes a text in the middle of empty axes."""
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9)


def legend(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, below it, so that it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(labels), 4)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def format_of(out: Path) -> str:
    """The ending of a picture's name, in lower case. Raises ConfigError when no picture ends so."""
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{out.name} does not end in {' or '.join(FORMATS)}", hint="Name the picture x.png or x.svg.")
    return suffix


def save(figure: Figure, out: Path, *, replace: bool = True) -> Path:
    """Writes PNG or SVG by the ending of `out`, whole or not at all; equal figures give equal bytes.

    Raises ConfigError for another ending and StorageError where the file cannot be written.
    """
    suffix = format_of(out)
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Software": None} if suffix == ".png" else {"Date": None}
    with mpl.rc_context({"svg.hashsalt": "flctl", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
    atomic.write_file(out, buffer.getvalue(), replace=replace)
    return out

"""Heatmap of training rows by client and label, as a picture and as a CSV table."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.errors import counted
from flctl.partition.schemes.deal import quantile_edges
from flctl.partition.skew import Kind, label_counts, row_clients
from flctl.report.figure import GREY, PALETTE, new_figure, save
from flctl.types import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from flctl.partition.store import Partition

__all__ = ["Heatmap", "Lines", "bin_labels", "draw", "full_colour", "heatmap_of", "lines", "write_csv"]


BETWEEN = " to "
KNOWN_BY = frozenset({"alpha", "by", "classes_per_client", "strictness", "sigma", "rate"})
NAMED = 40
"""Most clients that are drawn with a named line each, in client order; more clients are ordered by label."""
MOST_LINES = 400
NUMBERED_LABELS = 20
NAME_LENGTH = 22
CHARACTER, LINE = 0.075, 0.19
"""Inches that a character is wide and a turned name needs."""
# White to Okabe and Ito's blue and on to black: lightness falls all the way, so any eye, or a copier, reads it.
COLOURS = ("#FFFFFF", "#CFE4F3", "#6FB2DC", "#0072B2", "#003F66", "#001A2C")


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Training rows of each client [K] (`sizes`) and of each label at each client [K, C] (`counts`).

    `kind`: labels are `classes`, quantile `bins` of a real-valued target, or `none` (text: sizes only, C = 0).
    """

    title: str
    kind: Kind
    client_ids: Sequence[str]
    labels: tuple[str, ...]
    counts: IntArray
    sizes: IntArray

    @property
    def shares(self) -> FloatArray:
        """Each label's share of a client's rows, [K, C]; 0 where a client has none."""
        return np.asarray(self.counts / np.maximum(self.sizes, 1)[:, None])


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a picture: label `shares` [L, C] and mean `sizes` [L] of the clients of each line.

    Many clients are ordered by their most frequent label, and neighbours share a line; `members` are the clients
    of each line.
    """

    shares: FloatArray
    sizes: FloatArray
    members: tuple[IntArray, ...]
    in_client_order: bool


def heatmap_of(partition: Partition, *, bins: int = 10) -> Heatmap:
    """The training rows of a stored partition by client and label."""
    client, is_test = row_clients(partition)
    train = np.flatnonzero(~is_test)
    sizes = partition.counts[:, 0]
    kind, labels, codes = _labelled(partition, partition.column("y"), train, bins)
    counts = label_counts(client[train], codes, partition.clients, len(labels)) if labels else _no_counts(sizes)
    return Heatmap(_title(partition), kind, partition.client_ids, labels, counts, sizes)


def _labelled(
    partition: Partition, y: npt.NDArray[np.generic], train: IntArray, bins: int
) -> tuple[Kind, tuple[str, ...], IntArray]:
    if partition.task == "next-character" or not len(train):
        return "none", (), train
    if partition.task == "regression":
        values = y[train].astype(np.float64)
        edges = quantile_edges(values, bins)
        return "bins", bin_labels(edges), np.searchsorted(edges, values, side="right")
    codes = y[train].astype(np.int64)
    names = partition.classes or tuple(str(code) for code in range(int(codes.max()) + 1))
    return "classes", names, codes


def _no_counts(sizes: IntArray) -> IntArray:
    return np.zeros((len(sizes), 0), np.int64)


def bin_labels(edges: FloatArray) -> tuple[str, ...]:
    """A name for each bin between the edges: below the first, between two, from the last on."""
    if not len(edges):
        return ("all",)
    digits = next((d for d in range(3, 17) if len({f"{edge:.{d}g}" for edge in edges}) == len(edges)), 17)
    text = [f"{edge:.{digits}g}" for edge in edges]
    between = [f"{low}{BETWEEN}{high}" for low, high in pairwise(text)]
    return (f"< {text[0]}", *between, f"≥ {text[-1]}")


def _title(partition: Partition) -> str:
    scheme = dict(partition.manifest.scheme)
    name = str(scheme.pop("name", ""))
    options = _telling(name, scheme)
    size = f"{counted(partition.clients, 'client')}, {counted(partition.manifest.rows.train, 'training row')}"
    return f"{partition.manifest.dataset.name}, {name}{f' ({options})' if options else ''}: {size}"


def _telling(name: str, options: Mapping[str, Any]) -> str:
    """The options worth a title: those that a scheme is known by, and those that were changed."""
    from flctl.partition import PARTITIONERS

    fields = next((scheme.Config.model_fields for scheme in PARTITIONERS if scheme.name == name), {})
    changed = {
        key: value
        for key, value in options.items()
        if key in KNOWN_BY or key not in fields or value != fields[key].get_default(call_default_factory=True)
    }
    words = [(key.replace("_", " "), _option_text(value)) for key, value in changed.items()]
    return ", ".join([f"{key} {value}" for key, value in words if 0 < len(value) <= NAME_LENGTH][:4])


def _option_text(value: Any) -> str:
    """A number or a word as it is, columns of `--by` joined; nothing for what is longer."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " / ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, (int, str)) else ""


def write_csv(heatmap: Heatmap, out: Path) -> Path:
    """The numbers behind the picture: a line for each client with its rows and the rows of each label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["client", "rows", *heatmap.labels])
    for name, size, row in zip(heatmap.client_ids, heatmap.sizes.tolist(), heatmap.counts.tolist(), strict=True):
        writer.writerow([name, size, *row])
    atomic.write_file(out, text.getvalue().encode())
    return out


def lines(heatmap: Heatmap, most: int = MOST_LINES) -> Lines:
    """The lines of a picture: one client each while there are few, else neighbours by label together."""
    clients = len(heatmap.sizes)
    if clients <= NAMED:
        members = np.split(np.arange(clients), np.arange(1, clients))
        return Lines(heatmap.shares, heatmap.sizes.astype(np.float64), tuple(members), True)
    order = _by_main_label(heatmap)
    parts = np.array_split(order, min(clients, most))
    each = heatmap.shares
    shares = np.stack([_mean_shares(each[part], heatmap.sizes[part]) for part in parts])
    return Lines(shares, np.array([heatmap.sizes[part].mean() for part in parts]), tuple(parts), False)


def _by_main_label(heatmap: Heatmap) -> IntArray:
    """Clients by the label that they have most of, purest first, then by their second label; empty ones last.
    Without labels from large to small."""
    if not heatmap.labels:
        return np.argsort(-heatmap.sizes, kind="stable")
    shares = heatmap.shares
    first = shares.argmax(axis=1)
    others = shares.copy()
    others[np.arange(len(first)), first] = -1
    main = np.where(heatmap.sizes > 0, first, len(heatmap.labels))
    return np.lexsort((others.argmax(axis=1), -np.round(shares.max(axis=1), 2), main))


def _mean_shares(shares: FloatArray, sizes: IntArray) -> FloatArray:
    """The mean over the clients that have rows."""
    return np.asarray(shares[sizes > 0].mean(axis=0) if sizes.any() else shares.sum(axis=0))


def draw(heatmap: Heatmap, out: Path) -> Path:
    """A PNG or SVG, by the ending of `out`: shares by client and label, and beside them the clients' sizes."""
    # Letters that the built-in font lacks are drawn as boxes; that is no news for the console.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        return save(_figure(heatmap), out)


def _figure(heatmap: Heatmap) -> Figure:
    shown = lines(heatmap)
    width = _width(len(heatmap.labels))
    figure = new_figure(width, _height(len(shown.sizes), labelled=bool(heatmap.labels)))
    figure.suptitle(fill(_plain(heatmap.title), int(width * 11)), fontsize=11, x=0.01, ha="left")
    if heatmap.labels:
        grid = figure.add_gridspec(1, 2, width_ratios=(4.2, 1.0))
        cells = figure.add_subplot(grid[0])
        bars = figure.add_subplot(grid[1], sharey=cells)
        image = _draw_cells(cells, heatmap, shown)
        bar = figure.colorbar(image, ax=[cells, bars], pad=0.02, aspect=38, fraction=0.04)
        bar.outline.set_visible(False)
        _style_colour_bar(bar.ax, shown)
        _draw_sizes(bars, shown, heatmap_beside=True)
    else:
        bars = figure.add_subplot()
        _draw_sizes(bars, shown, heatmap_beside=False)
    _name_lines(cells if heatmap.labels else bars, heatmap, shown)
    return figure


def _width(labels: int) -> float:
    return 8.0 if labels <= 12 else min(8.0 + 0.32 * (labels - 12), 16.0)


def _height(count: int, *, labelled: bool) -> float:
    if count > NAMED:
        return 8.5 if labelled else 5.0
    return 1.7 + 0.27 * max(count, 3)


def _colour_map() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", COLOURS)


def _draw_cells(axes: Axes, heatmap: Heatmap, shown: Lines) -> AxesImage:
    labels = len(heatmap.labels)
    top = full_colour(shown.shares)
    image = axes.imshow(shown.shares, _colour_map(), vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    if shown.in_client_order:
        _draw_grid(axes, shown.shares.shape)
        if labels <= NUMBERED_LABELS:
            _write_numbers(axes, heatmap.counts, shown.shares / top)
    _name_labels(axes, heatmap)
    for side in axes.spines.values():
        side.set_color("#BBBBBB")
    return image


def full_colour(shares: FloatArray) -> float:
    """The share that the last colour stands for: the largest, but well above an even mix, whose noise should not
    look like structure."""
    largest = max(float(shares.max(initial=0)), 4 / shares.shape[1])
    return float(min(1.0, math.ceil(20 * largest) / 20))


def _draw_grid(axes: Axes, shape: tuple[int, ...]) -> None:
    axes.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E5E5E5", linewidth=0.8)
    axes.tick_params(which="minor", length=0)


def _write_numbers(axes: Axes, counts: IntArray, depth: FloatArray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if depth[row, column] > 0.5 else "#222222"
            axes.text(column, row, _short(int(count)), ha="center", va="center", fontsize=7, color=colour)


def _short(count: int) -> str:
    """A number of rows in at most five characters: 9,999, 12.3k, 4.5M."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.3g}k" if count < 999_500 else f"{count / 1e6:.3g}M"


def _name_labels(axes: Axes, heatmap: Heatmap) -> None:
    names = [_cut(label) for label in heatmap.labels]
    space = 0.66 * _width(len(names)) / len(names)
    turned = max(len(name) for name in names) * CHARACTER + 0.08 > space
    step = math.ceil(LINE / space) if turned else 1
    style: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned and step == 1 else {}
    axes.set_xticks(range(0, len(names), step), names[::step], **style)
    axes.set_xlabel("label" if heatmap.kind == "classes" else "target, in bins of equal numbers of rows", fontsize=9)
    axes.xaxis.label.set_color(GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=2)


def _cut(name: str) -> str:
    """One line of at most `NAME_LENGTH` characters."""
    text = " ".join(name.split())
    return _plain(text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…")


def _plain(text: str) -> str:
    """Dollars escaped: between two of them matplotlib would see mathematics."""
    return text.replace("$", r"\$")


def _name_lines(axes: Axes, heatmap: Heatmap, shown: Lines) -> None:
    clients = len(heatmap.sizes)
    if shown.in_client_order:
        empty = np.where(heatmap.sizes == 0, " (empty)", "")
        names = [_cut(str(name)) + mark for name, mark in zip(heatmap.client_ids, empty, strict=True)]
        axes.set_yticks(range(clients), names)
        what = "client"
    else:
        axes.set_yticks([])
        ordered = "by their most frequent label" if heatmap.labels else "from large to small"
        most = max(len(part) for part in shown.members)
        exact = "" if clients == most * len(shown.members) else "up to "
        together = f", {exact}{most:,} to a line" if most > 1 else ""
        what = f"{counted(clients, 'client')}, {ordered}{together}"
    axes.set_ylabel(what, fontsize=9, color=GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=2)


def _draw_sizes(axes: Axes, shown: Lines, *, heatmap_beside: bool) -> None:
    from matplotlib.ticker import StrMethodFormatter

    count = len(shown.sizes)
    axes.barh(np.arange(count), shown.sizes, height=0.7 if shown.in_client_order else 1.0, color=PALETTE[0], alpha=0.55)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(0, max(1.0, float(shown.sizes.max(initial=0))) * (1.3 if shown.in_client_order else 1.05))
    grouped = len(shown.members) < sum(len(part) for part in shown.members)
    axes.set_xlabel("mean rows" if grouped else "rows", fontsize=9, color=GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=2)
    if heatmap_beside:
        axes.tick_params(axis="y", which="both", labelleft=False, left=False)
    axes.locator_params(axis="x", nbins=3 if heatmap_beside else 8, integer=True)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.spines["bottom"].set_color("#BBBBBB")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if shown.in_client_order:
        for line, size in enumerate(shown.sizes):
            axes.text(size, line, f" {int(size):,}", va="center", fontsize=7, color=GREY)


def _style_colour_bar(axes: Axes, shown: Lines) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    alone = len(shown.members) == sum(len(part) for part in shown.members)
    axes.set_ylabel("share of the client's rows" if alone else "mean share of a client's rows", fontsize=9, color=GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=2)

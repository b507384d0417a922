"""Clients by label in the terminal: numbers in coloured cells, and plain numbers where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import counted
from flctl.partition.skew import effective_classes
from flctl.report.heatmap import BETWEEN, Heatmap, full_colour
from flctl.types import FloatArray, IntArray

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

__all__ = ["render"]

MOST_CLIENTS = 24
NAME_WIDTH = 20
NARROWEST, WIDEST = 5, 12
SIZE_WIDTH, EFFECTIVE_WIDTH, BAR_WIDTH = 10, 6, 30
ALL, HOLDERS, REST = "all", "clients", "rest"
LEGEND = (
    "Cells: training rows; colour, blue to yellow: share of the client's rows; eff.: effective number of labels; "
    f"{ALL}: rows of all clients; {HOLDERS}: number of clients with the label."
)
# Dark blue to yellow: lightness rises all the way, so every kind of colour vision sees the same order, and the
# cells stand out from black and from white backgrounds. Small shares have no colour at all.
COLOURS = np.array([(0, 58, 93), (0, 114, 178), (63, 163, 219), (156, 203, 134), (240, 228, 66)], np.float64)
COLOURED = 0.1


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns that fit the console: their `labels`, `counts` [K, columns] and `width`, and the client names' width."""

    labels: tuple[str, ...]
    counts: IntArray
    width: int
    name_width: int
    sizes: IntArray
    effective: FloatArray
    top: float
    """The share that has the last colour."""


def render(heatmap: Heatmap, console: Console, *, most: int = MOST_CLIENTS) -> None:
    """Prints the heatmap: a line for each of at most `most` clients, and what all clients have together.

    A cell is a number of training rows, its colour the share of the client's rows; "·" stands for 0. `eff.` is the
    effective number of labels, exp(entropy). Where the console is too narrow the rarest labels share a column.
    """
    console.print(_plain(heatmap.title), style="bold", markup=False)
    if not heatmap.labels:
        _render_sizes(heatmap, console, most)
        return
    table = _fit(heatmap, console.width)
    _print(console, _header(table), "dim")
    for note, clients in _chosen(heatmap.sizes, most):
        if note:
            _print(console, note, "dim italic")
        for client in clients:
            console.print(_line(table, _name(heatmap, int(client), table.name_width - 1), client), soft_wrap=True)
    _print(console, _totals(table, ALL, table.counts.sum(axis=0), heatmap), "bold")
    _print(console, _totals(table, HOLDERS, (table.counts > 0).sum(axis=0), None), "dim")
    if heatmap.kind == "bins" or any(len(label) >= table.width for label in table.labels):
        console.print("Labels: " + ", ".join(_plain(label) for label in table.labels), style="dim", markup=False)
    console.print(LEGEND, style="dim", markup=False)


def _print(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    """One line without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _name(heatmap: Heatmap, client: int, width: int) -> str:
    return _cut(heatmap.client_ids[client], width)


def _cut(text: str, width: int) -> str:
    text = _plain(str(text))
    return text if len(text) <= width else text[: width - 1] + "…"


def _fit(heatmap: Heatmap, console_width: int) -> _Table:
    """The columns that fit into the console: all labels, or the most frequent ones and the others together."""
    longest = max((len(str(name)) for name in heatmap.client_ids), default=1)
    name_width = max(len(HOLDERS), min(longest, NAME_WIDTH)) + 1
    room = console_width - name_width - SIZE_WIDTH - EFFECTIVE_WIDTH
    labels, counts = heatmap.labels, heatmap.counts
    if len(labels) * NARROWEST > room:
        labels, counts = _most_frequent(heatmap, max(2, room // NARROWEST))
    wanted = max(len(_heading(label)) + 1 for label in labels)
    width = int(np.clip(min(wanted, room // len(labels)), NARROWEST, WIDEST))
    return _Table(
        labels, counts, width, name_width, heatmap.sizes, effective_classes(heatmap.shares), full_colour(heatmap.shares)
    )


def _most_frequent(heatmap: Heatmap, room: int) -> tuple[tuple[str, ...], IntArray]:
    kept = np.sort(np.argsort(-heatmap.counts.sum(axis=0), kind="stable")[: room - 1])
    others = np.delete(heatmap.counts, kept, axis=1).sum(axis=1, keepdims=True)
    return (*(heatmap.labels[i] for i in kept), REST), np.hstack([heatmap.counts[:, kept], others])


def _chosen(sizes: IntArray, most: int) -> Iterator[tuple[str, IntArray]]:
    """The clients to show: all, or where there are many the largest, the middling and the smallest."""
    clients = len(sizes)
    if clients <= most:
        yield "", np.arange(clients)
        return
    if sizes.max() - sizes.min() <= 1:
        yield f"the first {most} of {counted(clients, 'client')} of equal size", np.arange(most)
        return
    order, each = np.argsort(-sizes, kind="stable"), most // 3
    middle = (clients - each) // 2
    yield f"the {each} largest of {counted(clients, 'client')}", order[:each]
    yield f"{each} around the median", order[middle : middle + each]
    yield f"the {each} smallest", order[clients - each :]


def _header(table: _Table) -> str:
    cells = "".join(_cell(_cut(_heading(label), table.width - 1), table.width) for label in table.labels)
    return f"{'client':<{table.name_width}}{cells}{'rows':>{SIZE_WIDTH}}{'eff.':>{EFFECTIVE_WIDTH}}"


def _heading(label: str) -> str:
    """A class as it is; a bin "15.4 to 23.6" by where it begins."""
    return label.partition(BETWEEN)[0].replace("≥ ", "≥").replace("< ", "<")


def _line(table: _Table, name: str, client: int) -> Text:
    from rich.text import Text

    text = Text(f"{name:<{table.name_width}}")
    size = int(table.sizes[client])
    for count in table.counts[client].tolist():
        text.append(_cell(_shown(count), table.width), _style(count / max(size, 1) / table.top, count))
    text.append(f"{size:>{SIZE_WIDTH},}")
    effective = f"{table.effective[client]:.1f}" if size else "empty"
    return text.append(f"{effective:>{EFFECTIVE_WIDTH}}")


def _cell(text: str, width: int) -> str:
    return f"{text:>{width - 1}} "


def _shown(count: int) -> str:
    """Rows in at most four characters."""
    if count < 10_000:
        return str(count) if count else "·"
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.3g}M"


def _totals(table: _Table, name: str, counts: IntArray, heatmap: Heatmap | None) -> str:
    """A line of sums; with the sizes and effective labels of all clients together where `heatmap` is given."""
    cells = "".join(_cell(_shown(count), table.width) for count in counts.tolist())
    line = f"{name:<{table.name_width}}{cells}"
    if heatmap is None or not heatmap.sizes.any():
        return line
    shares = heatmap.counts.sum(axis=0, keepdims=True) / heatmap.sizes.sum()
    return f"{line}{heatmap.sizes.sum():>{SIZE_WIDTH},}{effective_classes(shares)[0]:>{EFFECTIVE_WIDTH}.1f}"


def _style(depth: float, count: int) -> Style:
    """The look of a cell whose share is `depth` (0..1) of the share that has the last colour."""
    from rich.color import Color
    from rich.style import Style

    if depth < COLOURED:
        return Style(dim=count == 0)
    position = min(depth, 1.0) * (len(COLOURS) - 1)
    low = min(int(position), len(COLOURS) - 2)
    red, green, blue = COLOURS[low] + (position - low) * (COLOURS[low + 1] - COLOURS[low])
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 128
    ink = Color.from_rgb(255, 255, 255) if dark else Color.from_rgb(0, 0, 0)
    return Style(color=ink, bgcolor=Color.from_rgb(red, green, blue))


def _render_sizes(heatmap: Heatmap, console: Console, most: int) -> None:
    """A bar for each client, where there are no labels."""
    largest = max(1, int(heatmap.sizes.max(initial=0)))
    width = min(max((len(str(name)) for name in heatmap.client_ids), default=1), NAME_WIDTH)
    longest = min(BAR_WIDTH, max(1, console.width - width - SIZE_WIDTH - 2))
    for note, clients in _chosen(heatmap.sizes, most):
        if note:
            _print(console, note, "dim italic")
        for client in clients.tolist():
            size = int(heatmap.sizes[client])
            bar = "█" * max(round(longest * size / largest), int(size > 0))
            _print(console, f"{_name(heatmap, client, width):<{width}} {size:>{SIZE_WIDTH},} {bar}", "")

"""How the cost of a session grows: with clients, values, neighbours and dropouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["CURVES", "draw", "measured", "table"]

Hold = Callable[..., Any]
"""hold(clients, length, dropped, whole=...) runs one session and returns its costs."""
Point = tuple[int, int, float, bool]
CURVES: Mapping[str, tuple[str, Sequence[Point]]] = {
    "clients, each with all others": ("clients", [(n, 20_000, 0.0, True) for n in (10, 25, 50, 100, 200)]),
    "clients, k neighbours each": ("clients", [(n, 20_000, 0.0, False) for n in (60, 125, 250, 500)]),
    "values, 20 clients": ("values", [(20, d, 0.0, True) for d in (10_000, 100_000, 1_000_000)]),
    "dropped after R1, 100 clients": ("dropped", [(100, 20_000, part, False) for part in (0.0, 0.1, 0.2, 0.3)]),
}
QUICK = 2
_PLACE = {"clients": 0, "values": 1, "dropped": 2}
Line = list[dict[str, float]]


def measured(hold: Hold, *, quick: bool) -> dict[str, Line]:
    """Curve -> points: what changes, k (less one: the streams of a client), and CPU seconds of one client and of the
    server."""
    found: dict[str, Line] = {}
    for name, (across, points) in CURVES.items():
        found[name] = []
        for point in points[:QUICK] if quick else points:
            held = hold(*point[:3], whole=point[3])
            place = float(point[_PLACE[across]])
            costs = {"client": held.client, "server": held.server, "neighbours": float(held.streams_client - 1)}
            found[name].append({across: place, **costs})
    return found


def table(found: Mapping[str, Line]) -> list[str]:
    """A line for each point."""
    lines = ["| curve | | neighbours | client, CPU s | server, CPU s |", "|---|---:|---:|---:|---:|"]
    for name, points in found.items():
        across = CURVES[name][0]
        for point in points:
            costs = f"{point['neighbours']:.0f} | {point['client']:.3g} | {point['server']:.3g}"
            lines.append(f"| {name} | {point[across]:,g} | {costs} |")
    return lines


def draw(found: Mapping[str, Line], path: Path) -> None:
    """A panel for each curve."""
    from flctl.report.figure import PALETTE, legend, new_figure, save, style

    figure = new_figure(11.5, 7.0)
    panels = figure.subplots(2, 2).flatten()
    for axes, (name, points) in zip(panels, found.items(), strict=True):
        across = CURVES[name][0]
        for color, side in zip(PALETTE, ("client", "server"), strict=False):
            label = "one client" if side == "client" else "the server"
            axes.plot([p[across] for p in points], [p[side] for p in points], "o-", color=color, label=label)
        if across != "dropped":
            axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.tick_params(labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        style(
            axes,
            x=f"share {across}" if across == "dropped" else across,
            y="CPU seconds",
            title=name[0].upper() + name[1:],
        )
    legend(figure, panels[0])
    path.unlink(missing_ok=True)
    save(figure, path)

"""The speed-ups as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.results import Result

__all__ = ["draw"]

OURS, FLOOR, TARGET, PEERS = "#1f5f8b", "#555555", "#c1440e", ("#2a9d8f", "#8a6fb0", "#b5892e", "#888888")


def draw(results: Sequence[Result], peers: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bars of the rows' speed-ups over the floor with their spread, targets as ticks, peers (name -> row -> speed
    over the floor) as marks; on a logarithmic axis, where the floor is 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if result.spread and result.figure == "faster than the floor"]
    figure, axes = plt.subplots(figsize=(10, 1.3 + 0.4 * len(shown)), constrained_layout=True)
    right = max(max(result.spread.high, result.target.hoped or 1) for result in shown if result.spread) * 1.4
    for place, result in enumerate(shown):
        _bar(axes, place, result, right)
    for number, (name, rows) in enumerate(peers.items()):
        places = [(rows[result.row], place) for place, result in enumerate(shown) if result.row in rows]
        if places:
            axes.scatter(
                [x for x, _ in places],
                [y for _, y in places],
                marker="D",
                s=26,
                color=PEERS[number % 4],
                label=name,
                zorder=4,
            )
    axes.axvline(1, color=FLOOR, linewidth=1.2)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_yticks(range(len(shown)), [f"{result.row}: {result.title}" for result in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(right=right * 2.2)
    axes.set_xlabel(
        "speed of a round over the floor's (right is faster; lines: least and most of the repeats)", fontsize=8
    )
    axes.legend(*_unique(axes), fontsize=8, loc="lower left", frameon=True)
    axes.grid(axis="x", which="major", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _bar(axes: Any, place: int, result: Result, right: float) -> None:
    spread = result.spread
    if spread is None:
        return
    axes.barh(place, spread.median - 1, left=1, height=0.55, color=OURS, label="flctl", alpha=0.85)
    axes.plot([spread.low, spread.high], [place, place], color="black", linewidth=1.2)
    axes.text(right, place, f"{spread.median:.3g}x", va="center", fontsize=8)
    for target, style, label in ((result.target.must, "-", "must"), (result.target.hoped, ":", "hoped")):
        if target is not None:
            axes.plot([target] * 2, [place - 0.4, place + 0.4], style, color=TARGET, linewidth=1.8, label=label)


def _unique(axes: Any) -> tuple[list[Any], list[str]]:
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    return list(handles.values()), list(handles)

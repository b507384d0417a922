"""Loss and metric by round, by bytes sent and by time, from the lines of metrics.jsonl."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import atomic
from flctl.errors import ConfigError
from flctl.metrics import METRICS
from flctl.report.figure import DASHES, PALETTE, empty, legend, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AXES", "compare_curves", "curves", "metric_curves", "shown_metric", "write_points"]

Row = Mapping[str, Any]
Series = tuple[list[float], list[float]]
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
FEW = 40
AXES = {
    "round": "round",
    "bytes": "{unit} sent, upload and download of all clients",
    "bytes-up": "{unit} sent by clients",
    "seconds": "seconds of training",
    "simulated-seconds": "simulated seconds",
}
"""Horizontal axis that a metric can be drawn along -> its label."""
SIMULATED = "simulated-seconds"


def curves(rows: Sequence[Row], out: Path, metric: str | None = None) -> Path:
    """A PNG or SVG of one run: training and test (or validation) loss, and the metric by round and by bytes.

    `rows` are lines of metrics.jsonl; `metric` defaults to accuracy or RMSE, whichever they have.
    """
    return compare_curves({"": rows}, out, metric)


def compare_curves(runs: Mapping[str, Sequence[Row]], out: Path, metric: str | None = None) -> Path:
    """The same for several runs, by name, in one picture: a colour for each."""
    shown = metric or shown_metric([row for rows in runs.values() for row in rows])
    figure = new_figure(12.5, 3.9)
    loss, by_round, by_bytes = figure.subplots(1, 3)
    for index, (name, rows) in enumerate(runs.items()):
        _draw_losses(loss, rows, name, index)
        _draw(by_round, _series(rows, shown), name or METRICS[shown].label, index)
        _draw(by_bytes, _by_bytes(rows, shown), name, index)
    _finish(loss, by_round, by_bytes, METRICS[shown].label, _traffic(runs))
    if len(runs) > 1:
        loss.set_title("Loss (dotted: training)", fontsize=11, loc="left")
    legend(figure, loss)
    return save(figure, out)


def shown_metric(rows: Sequence[Row]) -> str:
    """Returns the metric to draw: the first of accuracy, RMSE and the others that the runs have."""
    found = {name for row in rows for name in row if name in METRICS}
    return next((name for name in ("accuracy", "rmse", *METRICS) if name in found), "accuracy")


def metric_curves(runs: Mapping[str, Sequence[Row]], along: str, out: Path, metric: str) -> Path:
    """A PNG or SVG of one metric of several runs, by name, along one of `AXES`: what is left is better.

    Raises ConfigError where no run has a value of the metric, or one of them no simulated time to draw it along.
    """
    for name, rows in runs.items() if along == SIMULATED else ():
        if not _clocked(rows):
            hint = "Train with devices.speed, devices.upload or devices.download."
            raise ConfigError(f"{name} has no simulated seconds: it did not simulate device speed", hint=hint)
    figure = new_figure(7.2, 4.6)
    axes, farthest = figure.subplots(), 0.0
    for index, (name, rows) in enumerate(runs.items()):
        points = list(_points(rows, metric))
        x = [point[along] for point in points]
        farthest = max([farthest, *x])
        _draw(axes, (x, [point[metric] for point in points]), name, index)
    if not axes.get_lines():
        found = sorted({name for rows in runs.values() for row in rows for name in row if name in METRICS})
        hint = f"Recorded metrics: {', '.join(found)}." if found else "Train with eval.every above 0."
        raise ConfigError(f"no run has a value of '{metric}'", hint=hint)
    scale, unit = _unit(farthest) if along.startswith("bytes") else (1.0, "")
    label = METRICS[metric].label if metric in METRICS else metric
    style(axes, x=AXES[along].format(unit=unit), y=label, title=f"{_title(label)} by {along.replace('-', ' ')}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
    axes.set_xlim(left=0)
    _span(axes)
    legend(figure, axes)
    return save(figure, out, replace=False)


def write_points(runs: Mapping[str, Sequence[Row]], out: Path, metric: str) -> Path:
    """A CSV with a line for each value of the metric: run, round, and the sums of bytes and seconds up to it; of
    simulated ones where a run has such."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    clocked = any(_clocked(rows) for rows in runs.values())
    columns = [*(name for name in AXES if clocked or name != SIMULATED), metric]
    writer.writerow(["run", *columns])
    for name, rows in runs.items():
        for point in _points(rows, metric):
            writer.writerow([name, *(point[column] for column in columns)])
    atomic.write_file(out, text.getvalue().encode(), replace=False)
    return out


def _points(rows: Sequence[Row], metric: str) -> Iterator[dict[str, float]]:
    """Yields each value of the metric with the run's coordinate on every axis."""
    up = down = 0
    seconds = simulated = 0.0
    for row in rows:
        up, down = up + row["bytes_up"], down + row["bytes_down"]
        seconds += row["seconds"]["total"]
        simulated += _simulated(row) or 0.0
        if row.get(metric) is not None:
            at = {"round": row["round"], "bytes": up + down, "bytes-up": up, "seconds": round(seconds, 6)}
            yield {**at, SIMULATED: round(simulated, 6), metric: row[metric]}


def _simulated(row: Row) -> float | None:
    """The simulated seconds of a round; None where its devices have no clock."""
    found: float | None = row.get("devices", {}).get("seconds")
    return found


def _clocked(rows: Sequence[Row]) -> bool:
    return any(_simulated(row) is not None for row in rows)


def _unit(traffic: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in UNITS if traffic >= scale), UNITS[-1])


def _series(rows: Sequence[Row], name: str) -> Series:
    points = [(row["round"], row[name]) for row in rows if row.get(name) is not None]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _by_bytes(rows: Sequence[Row], name: str) -> Series:
    sent, points = 0.0, []
    for row in rows:
        sent += row["bytes_up"] + row["bytes_down"]
        if row.get(name) is not None:
            points.append((sent, float(row[name])))
    return [x for x, _ in points], [y for _, y in points]


def _traffic(runs: Mapping[str, Sequence[Row]]) -> float:
    return max((sum(row["bytes_up"] + row["bytes_down"] for row in rows) for rows in runs.values()), default=0.0)


def _draw_losses(axes: Axes, rows: Sequence[Row], name: str, index: int) -> None:
    """Several runs: loss of evaluated rows solid, training loss dotted. One run: the two have names and colours of
    their own."""
    if name:
        tested = _series(rows, f"{_split(rows)}_loss")
        _draw(axes, tested, name, index)
        _draw(axes, _series(rows, "loss"), "" if tested[0] else name, index, dashes=":")
        return
    split = _split(rows)
    _draw(axes, _series(rows, f"{split}_loss"), split, 0)
    _draw(axes, _series(rows, "loss"), "training (mean of the clients' local loss)", 1, dashes="--")


def _split(rows: Sequence[Row]) -> str:
    """Split that the rounds were evaluated on."""
    return "validation" if any("validation_loss" in row for row in rows) else "test"


def _draw(axes: Axes, series: Series, label: str, index: int, dashes: str | None = None) -> None:
    x, y = series
    if not x:
        return
    axes.plot(
        x,
        y,
        label=label or "_",
        color=PALETTE[index % len(PALETTE)],
        linestyle=dashes or DASHES[index // len(PALETTE) % len(DASHES)],
        linewidth=1.2 if dashes == ":" else 1.8,
        marker="o" if len(x) <= FEW else None,
        markersize=3,
    )


def _finish(loss: Axes, by_round: Axes, by_bytes: Axes, label: str, traffic: float) -> None:
    from matplotlib.ticker import MaxNLocator

    scale, unit = _unit(traffic)
    style(loss, x="round", y="loss", title="Loss")
    style(by_round, x="round", y=label, title=f"{_title(label)} by round")
    style(by_bytes, x=f"{unit} sent, upload and download of all clients", y=label, title=f"{_title(label)} by traffic")
    for axes in (loss, by_round):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_bytes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
    for axes in (loss, by_round, by_bytes):
        axes.set_xlim(left=0)
        _span(axes)


def _title(label: str) -> str:
    return label[:1].upper() + label[1:]


def _span(axes: Axes) -> None:
    """A logarithmic scale where the values span more than two orders of magnitude; a word where there are none."""
    values = [float(y) for line in axes.get_lines() for y in np.asarray(line.get_ydata(), np.float64)]
    if not values:
        empty(axes, "no values yet")
    elif min(values) > 0 and math.log10(max(values) / min(values)) > 2:
        axes.set_yscale("log")

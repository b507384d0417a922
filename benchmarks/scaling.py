"""How the cost of a round grows: with clients a round, rows a client, the model's size, workers, and rounds.

    python benchmarks/scaling.py [--quick] [--only clients rows ...] [--executor NAME]

Each curve changes one thing and holds the rest; a straight line is fitted to the logarithms, and its slope says how the
cost grows (1: in proportion). Writes benchmarks/results/scaling.json, scaling.csv, scaling.md and scaling.png;
`--quick` plays a few small points, judges nothing and writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from harness.contest import Session
from harness.flctl_rounds import executor_of, opened
from harness.measurement import Repeats, machine
from harness.results import RESULTS, command, write
from harness.workloads import W2, W3, Workload

LARGEST_SLOPE = 1.1
REPEATS, QUICK_REPEATS = 7, 2


@dataclass(frozen=True, slots=True)
class Curve:
    """What changes (`points`), on which workload, and what is drawn across; `size` is the abscissa of a point."""

    name: str
    title: str
    across: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    workload: Callable[[int], Workload]
    size: Callable[[int], float] = float
    workers: Callable[[int], int] | None = None
    rounds: Callable[[int], int] = lambda point: 1


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: seconds of a round (of all rounds, on the curve over rounds)."""

    size: float
    seconds: Repeats
    executor: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve's points, and the slopes of log seconds over log size: of all points, and of the last two."""

    name: str
    title: str
    across: str
    points: tuple[Point, ...]
    slope: float
    last_slope: float

    @property
    def judged(self) -> bool:
        """Whether a slope of 1 is what is expected: not over workers."""
        return self.name != "workers"

    def verdict(self) -> str:
        """What the slope says."""
        told = f"slope {self.slope:.2f}, of the last two points {self.last_slope:.2f}"
        if not self.judged:
            return f"{self.points[0].seconds.median / self.points[-1].seconds.median:.2f}x from the first to the last"
        return f"{told}: {'at most' if self.slope <= LARGEST_SLOPE else 'ABOVE'} {LARGEST_SLOPE}"


def parameters(hidden: int) -> float:
    """Parameters of a 2nn on 28 x 28 images."""
    return float(785 * hidden + (hidden + 1) * hidden + (hidden + 1) * 10)


CURVES = (
    Curve(
        "clients",
        "softmax 60 -> 10, 20 rows a client",
        "clients a round",
        (125, 250, 500, 1000, 2000, 4000, 8000),
        (4, 8),
        lambda point: replace(W3, cohort=point),
    ),
    Curve(
        "rows",
        "softmax 60 -> 10, 200 clients a round",
        "rows a client",
        (5, 10, 20, 40, 80, 160, 320),
        (10, 20),
        lambda point: replace(W3, clients=2000, cohort=200, rows=point),
    ),
    Curve(
        "model",
        "2NN of other widths, 20 clients x 20 a round",
        "parameters",
        (25, 50, 100, 200, 400, 800),
        (8, 16),
        lambda point: replace(W2, clients=200, cohort=20, hidden=point),
        size=parameters,
    ),
    Curve(
        "workers",
        "2NN, 100 clients x 20 a round",
        "workers",
        (1, 2),
        (1, 2),
        lambda point: W2,
        workers=lambda point: point,
    ),
    Curve(
        "rounds",
        "2NN, 100 clients x 20 a round: all rounds together",
        "rounds",
        (2, 4, 8, 16, 32, 64),
        (2, 4),
        lambda point: W2,
        rounds=lambda point: point,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; 1 where the cost grows faster than in proportion."""
    asked = _parse(arguments)
    lines = []
    with Session(quick=asked.quick) as session:
        for curve in CURVES:
            if not asked.only or curve.name in asked.only:
                lines.append(measure(session, curve, asked.executor))
                shown(lines[-1], judged=not asked.quick)
    if asked.out or not (asked.quick or asked.only):
        record(lines, asked.out or RESULTS)
    steep = [line.name for line in lines if line.judged and line.slope > LARGEST_SLOPE]
    return 1 if steep and not asked.quick else 0


def measure(session: Session, curve: Curve, executor: str | None) -> Line:
    """The curve's points, one after the other."""
    points = []
    for number in curve.quick if session.quick else curve.points:
        workload = curve.workload(number)
        if session.quick:
            workload = replace(workload, clients=min(workload.clients, 20), cohort=min(workload.cohort, 8))
        workers = curve.workers(number) if curve.workers else 1 if session.quick else 2
        run = session.run(workload, (), workers, executor)
        rounds, repeats = curve.rounds(number), QUICK_REPEATS if session.quick else REPEATS
        with opened(run) as ours:
            ours.play(1)
            seconds = Repeats.of([ours.play(rounds) for _ in range(repeats)])
            points.append(Point(curve.size(number), seconds, executor_of(ours)))
    sizes = np.log([point.size for point in points])
    times = np.log([point.seconds.median for point in points])
    slope = float(np.polyfit(sizes, times, 1)[0])
    last = float((times[-1] - times[-2]) / (sizes[-1] - sizes[-2]))
    return Line(curve.name, curve.title, curve.across, tuple(points), slope, last)


def shown(line: Line, *, judged: bool) -> None:
    """Prints a curve."""
    print(f"{line.name}: {line.title}" + (f"; {line.verdict()}" if judged else ""))
    for point in line.points:
        print(f"  {point.size:>10g} {line.across:<16} {point.seconds.text()} s  {point.executor}", flush=True)


def record(lines: Sequence[Line], folder: Path) -> None:
    """Writes the curves as numbers, as a table, as a page and as a picture."""
    made = {"command": command(), "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    page = ["# Scaling", "", f"Measured on {made['date']} by `{made['command']}`. {made['machine']}.", ""]
    page += ["| curve | what | growth |", "|---|---|---|"]
    page += [f"| {line.across} | {line.title} | {line.verdict()} |" for line in lines]
    page += ["", "Seconds are in scaling.csv, drawn in scaling.png.", ""]
    write({**made, "curves": [asdict(line) for line in lines]}, "\n".join(page), "scaling", folder)
    with (folder / "scaling.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["curve", "across", "size", "seconds", "least", "most", "executor"])
        for line in lines:
            for point in line.points:
                spread = point.seconds
                cells = [f"{value:.6g}" for value in (point.size, spread.median, spread.low, spread.high)]
                table.writerow([line.name, line.across, *cells, point.executor])
    draw(lines, folder / "scaling.png")


def draw(lines: Sequence[Line], path: Path) -> None:
    """A panel for each curve, both axes logarithmic, beside a line of slope 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(lines) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(11, 3.4 * rows), constrained_layout=True, squeeze=False)
    for axes, line in zip(panels.flat, lines, strict=False):
        _panel(axes, line)
    for axes in panels.flat[len(lines) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _panel(axes: Any, line: Line) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    sizes, times = [point.size for point in line.points], [point.seconds.median for point in line.points]
    errors = [[t - p.seconds.low, p.seconds.high - t] for t, p in zip(times, line.points, strict=True)]
    axes.errorbar(sizes, times, yerr=np.transpose(errors), marker="o", color="#1f5f8b", capsize=2, label="measured")
    if line.judged:
        straight = [times[-1] * size / sizes[-1] for size in sizes]
        axes.plot(sizes, straight, "--", color="#c1440e", linewidth=1, label="in proportion")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=30, fontsize=7)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(line.across)
    axes.set_ylabel("seconds")
    axes.set_title(f"{line.title}\n{line.verdict().partition(':')[0]}", fontsize=8)
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize=7)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small points, nothing written")
    parser.add_argument("--only", nargs="+", choices=[curve.name for curve in CURVES], help="which curves")
    parser.add_argument("--executor", help="pin an executor; default: what flctl chooses")
    parser.add_argument("--out", type=Path, help="where the results go")
    asked = parser.parse_args(arguments)
    if asked.quick and asked.out:
        parser.error("--quick writes nothing: leave out --out")
    return asked


if __name__ == "__main__":
    sys.exit(main())

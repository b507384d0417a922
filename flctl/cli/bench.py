"""`flctl bench`: speed of rounds on this machine, compared with a hand-written loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.performance.benchmark import BenchmarkResult, Repeats

__all__ = ["register"]

DEFAULT = ("softmax", "2nn")


def register(app: typer.Typer) -> None:
    """Adds `bench` to the application."""
    app.command("bench")(bench)


def bench(
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", help="Workload: softmax, 2nn or cnn; may be repeated. Default: softmax and 2nn."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds", min=1, help="Timed rounds of each workload. Default: 3 to 9, fewer for slow workloads."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="If above 1: also time flctl's choice in this many worker processes."),
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Compare rounds of flctl, with each executor, to a hand-written torch loop; takes about half a minute."""
    from flctl import machine
    from flctl.errors import ConfigError
    from flctl.performance.benchmark import contest
    from flctl.performance.workloads import WORKLOADS

    names = list(dict.fromkeys(workload or DEFAULT))
    for name in names:
        if name not in WORKLOADS:
            raise ConfigError(f"unknown workload '{name}'", hint=f"Known: {', '.join(WORKLOADS)}.")
    results = []
    for name in names:
        output.note(f"{name}: {WORKLOADS[name].title}")
        results.append(contest(WORKLOADS[name], current_registry(), rounds=rounds, workers=workers))
    facts = machine.facts()
    data = {"machine": facts, "results": [result.data() for result in results]}
    output.emit("bench", data, as_json=as_json, render=lambda console: _render(console, facts, results))


def _render(console: Console, facts: dict[str, Any], results: Sequence[BenchmarkResult]) -> None:
    for result in results:
        title = f"{result.workload}: {result.title}; median (least to most) of {result.repeats}"
        output.table(console, ("", "ms a round", "times as fast"), _rows(result), title=title)
        for row in result.rows:
            if row.reason:
                console.print(f"{row.executor} cannot train it: {row.reason}", markup=False)
        agreed = (
            f"after each round all models agree, to {result.agreement.middle:.1g} of the largest change of a parameter"
        )
        console.print(f"{agreed} (at worst {result.agreement.worst:.1g})\n", markup=False)
    console.print("floor: a plain torch loop with torch.optim.SGD, one process, one thread", markup=False)
    console.print("; ".join(f"{name} {value}" for name, value in facts.items()), markup=False)


def _rows(result: BenchmarkResult) -> Iterator[tuple[str, str, str]]:
    yield "floor", _text(result.floor, 1e3), "1"
    for row in result.rows:
        name = row.executor if row.workers == 1 else f"{row.executor}, {row.workers} workers"
        if row.seconds and row.ratio:
            yield f"{name} (chosen)" if row.chosen else name, _text(row.seconds, 1e3), _text(row.ratio)


def _text(spread: Repeats, factor: float = 1.0) -> str:
    median, low, high = (f"{factor * value:.3g}" for value in (spread.median, spread.low, spread.high))
    return f"{median} ({low} to {high})"

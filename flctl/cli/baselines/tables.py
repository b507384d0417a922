"""Printed output of `flctl baselines`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flctl.cli import output
from flctl.errors import counted
from flctl.metrics import METRICS
from flctl.report.baselines import GAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from flctl.cli.baselines.job import BaselineComparison
    from flctl.report.baselines import ComparedClients
    from flctl.report.comparison import Difference

__all__ = ["render"]

SHOWN, EACH_END = 40, 15


def render(console: Console, found: BaselineComparison) -> None:
    """Prints the models compared, the clients, the means, and the number of clients that gain or lose."""
    compared, budget = found.compared, found.budget
    label = METRICS[compared.metric].label
    where = "its own test rows" if found.own_rows else "the central test rows"
    console.print(f"{found.run}, round {found.round}: {label} of each client on {where}", markup=False)
    console.print(
        f"alone and pooled: {counted(budget.rounds, 'round')} of the run's local work "
        f"(a client took part in {budget.share:.0%} of {budget.run_rounds:,})",
        markup=False,
    )
    _render_clients(console, compared)
    _render_means(console, compared)
    for line in (*_verdict(compared), *found.notes):
        console.print(line, markup=False)


def _render_clients(console: Console, compared: ComparedClients) -> None:
    order = compared.order
    shown = order if len(order) <= SHOWN else [*order[:EACH_END], *order[-EACH_END:]]
    gains = compared.differences.get(GAIN)
    sizes = ["rows"] if len(compared.values) < 5 else []  # one column more would not fit 80 characters
    columns = ["client", *sizes, *compared.values, *(["federated - alone"] if gains else [])]
    rows = (
        [
            compared.clients[k],
            *([f"{compared.rows[k]:,}"] if sizes else []),
            *(number(float(values[k])) for values in compared.values.values()),
            *([change(gains[k])] if gains else []),
        ]
        for k in shown
    )
    output.table(console, columns, rows)
    if len(shown) < len(order):
        hidden = len(order) - len(shown)
        console.print(f"{counted(hidden, 'client')} in between not shown; --csv FILE and --json have all", markup=False)


def _render_means(console: Console, compared: ComparedClients) -> None:
    label = METRICS[compared.metric].label
    rows = [[name, number(value)] for name, value in compared.means.items()]
    output.table(console, ("model", label), rows, title="Mean over clients")
    differences = [[pair, change(one)] for pair, one in compared.mean_differences.items()]
    if differences:
        title = "Differences of the means (95 % interval, drawing clients)"
        output.table(console, ("", label), differences, title=title)


def _verdict(compared: ComparedClients) -> Iterator[str]:
    if GAIN not in compared.differences:
        return
    found = compared.verdicts()
    yield (
        f"federated against alone: better for {found['gain']} of {counted(len(compared.clients), 'client')}, worse for "
        f"{found['lose']}, undecided for {found['undecided']}"
    )
    yield "(better and worse: the 95 % interval over the client's test rows excludes 0)"


def number(value: float) -> str:
    """Three decimals, or four digits from a thousand on; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def change(one: Difference) -> str:
    """`+0.125 [+0.013, +0.237]`."""
    if math.isnan(one.value):
        return "-"
    interval = "" if one.low is None or one.high is None else f" [{_signed(one.low)}, {_signed(one.high)}]"
    return f"{_signed(one.value)}{interval}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}" if abs(value) < 1000 else f"{value:+.4g}"  # no "-0.000"

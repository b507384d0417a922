"""An evaluation as tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.cli.output import table
from flctl.fairness import Spread
from flctl.metrics import METRICS
from flctl.report.comparison import Difference
from flctl.report.evaluation import Comparison, Evaluated, client_metrics, size_groups, spreads

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.evaluate import ClientScores

__all__ = ["render"]

SHOWN_CLIENTS = 40
SHOWN_EACH_END = 10
SHOWN_CLASSES = 26
SHOWN_NAMES = 8


def render(
    console: Console,
    models: Sequence[Evaluated],
    comparisons: Sequence[Comparison],
    metric: str,
    *,
    per_client: bool,
    confusion: bool,
) -> None:
    """Prints everything as tables: central, federated, by size, and on request per client and confusions."""
    for model in models:
        _render_head(console, model)
    _render_central(console, models, comparisons)
    _render_federated(console, models, comparisons)
    for model in models:
        _render_sizes(console, model, metric, len(models) > 1)
        if confusion:
            _render_confusion(console, model)
        if per_client:
            _render_clients(console, model, metric)


def _render_head(console: Console, model: Evaluated) -> None:
    at = "" if model.round is None else f", round {model.round}"
    central = model.evaluation.central
    kind = "the clients' own test rows together" if model.evaluation.pooled else "the source's own test part"
    console.print(f"{model.name}{at}, on {model.data}: {central.rows:,} central test rows ({kind})", markup=False)
    scores = model.evaluation.clients
    if scores.without_rows:
        named = ", ".join(scores.without_rows[:SHOWN_NAMES])
        more = len(scores.without_rows) - SHOWN_NAMES
        named += f" and {more} more" if more > 0 else ""
        console.print(
            f"  {len(scores.without_rows)} of {len(scores.rows)} clients have no test rows: {named}", markup=False
        )
    for sentence in (*model.notes, *(f"{METRICS[name].label}: {why}" for name, why in central.notes.items())):
        console.print(f"  {sentence}", markup=False)


def _render_central(console: Console, models: Sequence[Evaluated], comparisons: Sequence[Comparison]) -> None:
    names = [name for name in _shared(models) if name != "test_loss" or "log_loss" not in _shared(models)]
    columns = ["metric", *(model.name for model in models)]
    columns += [f"{c.second} - {c.first}" if len(models) > 2 else "difference" for c in comparisons]
    rows = []
    for name in names:
        cells = [number(model.evaluation.central.values[name]) for model in models]
        cells += [_change(comparison.central.get(name)) for comparison in comparisons]
        rows.append([METRICS[name].label, *cells])
    table(console, columns, rows, title="Central test set")
    if any(not comparison.paired for comparison in comparisons):
        console.print("the test rows are not the same, so differences have no interval", markup=False)
    elif comparisons:
        _render_interval(console, comparisons)


def _render_interval(console: Console, comparisons: Sequence[Comparison]) -> None:
    console.print("[ ]: 95 % interval, paired bootstrap over rows (over clients: drawing clients)", markup=False)
    for comparison in comparisons:
        p = comparison.central["accuracy"].p if "accuracy" in comparison.central else None
        if p is not None:
            pair = f"{comparison.second} against {comparison.first}"
            console.print(f"{pair}: McNemar's exact test of the accuracies, p = {p:.3g}", markup=False)
    console.print()


def _shared(models: Sequence[Evaluated]) -> list[str]:
    first, *rest = (model.evaluation.central.values for model in models)
    return [name for name in METRICS if name in first and all(name in other for other in rest)]


def _render_federated(console: Console, models: Sequence[Evaluated], comparisons: Sequence[Comparison]) -> None:
    columns = ["metric", "weighted mean", "mean", "std", "worst", "worst 10%", "median", "best 10%", "best", "Jain"]
    for model in models:
        found = spreads(model.evaluation.clients)
        clients = len(model.evaluation.clients.rows) - len(model.evaluation.clients.without_rows)
        title = f"Over {clients:,} clients" + (f", {model.name}" if len(models) > 1 else "")
        table(console, columns, (_spread_cells(name, spread) for name, spread in found.items()), title=title)
        for name, spread in found.items():
            if spread.undefined:
                console.print(
                    f"{METRICS[name].label}: undefined for {spread.undefined:,} clients, left out", markup=False
                )
    for comparison in comparisons:
        if comparison.clients:
            rows = ([METRICS[name].label, _change(change)] for name, change in comparison.clients.items())
            title = f"Mean over clients: {comparison.second} - {comparison.first}"
            table(console, ("metric", "difference"), rows, title=title)


def _spread_cells(name: str, spread: Spread) -> list[str]:
    q, higher = spread.quantiles, METRICS[name].higher_is_better
    worst, best = (q[0.0], q[1.0]) if higher else (q[1.0], q[0.0])
    values = (
        spread.weighted_mean,
        spread.mean,
        spread.std,
        worst,
        spread.worst_decile,
        q[0.5],
        spread.best_decile,
        best,
    )
    return [METRICS[name].label, *map(number, values), number(spread.jain)]


def _render_sizes(console: Console, model: Evaluated, metric: str, named: bool) -> None:
    groups = size_groups(model.evaluation.clients, metric)
    if len(groups) < 2:
        return
    label = METRICS[metric].label
    title = f"By size of the client, {label}" + (f", {model.name}" if named else "")
    rows = ([f"{g.smallest:,} to {g.largest:,}", f"{g.clients:,}", number(g.mean), number(g.worst)] for g in groups)
    table(console, ("rows", "clients", "mean", "worst"), rows, title=title)


def _render_clients(console: Console, model: Evaluated, metric: str) -> None:
    scores = model.evaluation.clients
    names = client_metrics(scores)
    order = _worst_first(scores, metric)
    shown = list(range(len(order)))
    if len(order) > SHOWN_CLIENTS:
        shown = [*range(SHOWN_EACH_END), *range(len(order) - SHOWN_EACH_END, len(order))]
    rows = (_client_cells(scores, int(order[index]), names) for index in shown)
    columns = ["client", "rows", "test rows", *(METRICS[name].label for name in names)]
    table(console, columns, rows, title=f"Clients by {METRICS[metric].label}, worst first: {model.name}")
    if len(shown) < len(order):
        hidden = len(order) - len(shown)
        console.print(f"{hidden:,} clients in between are not shown; --csv FILE and --json have all", markup=False)


def _worst_first(scores: ClientScores, metric: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Client indices with test rows, from worst to best, those without the metric last."""
    values = scores.values[metric]
    order = np.argsort(values if METRICS[metric].higher_is_better else -values, kind="stable")
    return order[scores.rows[order] > 0]


def _client_cells(scores: ClientScores, index: int, names: Sequence[str]) -> list[str]:
    sizes = (f"{int(scores.sizes[index]):,}", f"{int(scores.rows[index]):,}")
    return [str(scores.client_ids[index]), *sizes, *(number(float(scores.values[name][index])) for name in names)]


def _render_confusion(console: Console, model: Evaluated) -> None:
    counts = model.evaluation.central.confusion
    if counts is None:
        console.print(f"{model.name}: a regression has no confusion matrix", markup=False)
    elif len(counts) <= SHOWN_CLASSES:
        rows = (
            [name, *(f"{count:,}" if count else "·" for count in row)]
            for name, row in zip(model.classes, counts, strict=True)
        )
        table(console, ["truth \\ predicted", *model.classes], rows, title=f"Confusion matrix, {model.name}")
    else:
        table(console, ("truth", "predicted", "rows"), _confused(model), title=f"Most confused classes, {model.name}")


def _confused(model: Evaluated) -> Iterator[tuple[str, str, str]]:
    counts = np.array(model.evaluation.central.confusion)
    np.fill_diagonal(counts, 0)
    for cell in np.argsort(-counts, axis=None, kind="stable")[:20]:
        truth, guess = divmod(int(cell), len(counts))
        if counts[truth, guess]:
            yield _visible(model.classes[truth]), _visible(model.classes[guess]), f"{counts[truth, guess]:,}"


def _visible(name: str) -> str:
    return name if name.isprintable() and name.strip() else repr(name)


def _change(change: Difference | None) -> str:
    if change is None or math.isnan(change.value):
        return "-"
    interval = "" if change.low is None or change.high is None else f" [{change.low:+.4f}, {change.high:+.4f}]"
    return f"{change.value:+.4f}{interval}"


def number(value: float) -> str:
    """Four decimals, or four digits from a thousand on; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"

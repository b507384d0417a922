"""Printed tables of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.cli.output import table
from flctl.errors import counted
from flctl.evaluation.evaluate import Evaluated
from flctl.evaluation.intervals import Interval
from flctl.evaluation.metrics import class_report
from flctl.evaluation.spread import Spread
from flctl.evaluation.subgroups import FLOOR
from flctl.metrics import METRICS
from flctl.report.comparison import Difference
from flctl.report.evaluation import Comparison, Grouped, client_metrics, size_groups, spreads

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.evaluation.evaluate import ClientScores

__all__ = ["render"]

SHOWN_CLIENTS = 40
SHOWN_EACH_END = 10
SHOWN_CLASSES = 26
SHOWN_NAMES = 8
IN_FULL = frozenset({"macro_f1", "precision", "npv", "ks"})
"""Metrics over clients that only --json, --csv and --per-client have."""
GROUPED = ("recall", "specificity", "precision", "auroc", "accuracy", "mae", "r2")
"""Metrics of subgroups, beside the first."""


def render(
    console: Console,
    models: Sequence[Evaluated],
    comparisons: Sequence[Comparison],
    metric: str,
    *,
    per_client: bool,
    confusion: bool,
    per_class: bool = False,
    groups: Grouped | None = None,
) -> None:
    """Prints everything as tables: central, over clients, by size, and on request per client and confusions."""
    for model in models:
        _render_head(console, model)
    first = models[0].evaluation.headline
    if first.why is not None and first.metric == metric:
        console.print(f"  {first.why}", markup=False)
    _render_central(console, models, comparisons, metric)
    shown = not any(model.withheld for model in models)
    if shown and len(models) == 1:
        _render_spreads(console, models[0])
    elif shown:
        _render_spread_of(console, models, comparisons, metric)
    for group in _same_clients(models) if shown else ():
        _render_sizes(console, group, metric)
        if per_client:
            _render_clients(console, group, metric)
    for model in models:
        _render_groups(console, model, groups, metric)
    for model in models if per_class else ():
        _render_classes(console, model)
    for model in models if confusion else ():
        _render_confusion(console, model)


def _same_clients(models: Sequence[Evaluated]) -> list[list[Evaluated]]:
    """The models grouped by the partition they were evaluated on, so that their clients can share a table."""
    groups: dict[str, list[Evaluated]] = {}
    for model in models:
        groups.setdefault(model.partition_digest, []).append(model)
    return list(groups.values())


def _render_head(console: Console, model: Evaluated) -> None:
    at = "" if model.round is None else f", round {model.round}"
    central = model.evaluation.central
    kind = "the clients' own test rows together" if model.evaluation.pooled else "the source's own test part"
    console.print(
        f"{model.name}{at}, on {model.data}: {counted(central.rows, 'central test row')} ({kind})", markup=False
    )
    scores = model.evaluation.clients
    if scores.without_rows:
        named = ", ".join(scores.without_rows[:SHOWN_NAMES])
        more = len(scores.without_rows) - SHOWN_NAMES
        named += f" and {more} more" if more > 0 else ""
        console.print(
            f"  {len(scores.without_rows)} of {counted(len(scores.rows), 'client')} without test rows: {named}",
            markup=False,
        )
    for sentence in (*_decision(model), *model.notes, *_reasons(central.notes)):
        console.print(f"  {sentence}", markup=False)


def _decision(model: Evaluated) -> Iterator[str]:
    """Yields the positive class of two, and the threshold with the rates on the rows that chose it."""
    decision, found = model.evaluation.decision, model.threshold
    if len(model.classes) == 2 and "recall" in model.evaluation.central.values:
        name, other = model.classes[decision.positive], model.classes[1 - decision.positive]
        yield f"positive class: {name} (the other is {other})"
    if found is None:
        return
    where = ""
    if found.split is not None and found.rates is not None:
        there = ", ".join(f"{METRICS[name].label} {number(found.rates[name])}" for name in ("recall", "specificity"))
        where = f", chosen by {found.rule} on {counted(found.rows, str(found.split) + ' row')}: {there}"
    yield f"threshold {found.value}{where}"


def _interval(found: Interval | None) -> str:
    return "-" if found is None else f"{number(found.low)} to {number(found.high)}"


def _reasons(notes: Mapping[str, str]) -> Iterator[str]:
    """Each reason once, after the metrics that it is about."""
    for reason in dict.fromkeys(notes.values()):
        about = [METRICS[name].label for name, why in notes.items() if why == reason and name != "test_loss"]
        yield f"{', '.join(about)}: {reason}"


def _render_central(
    console: Console, models: Sequence[Evaluated], comparisons: Sequence[Comparison], metric: str
) -> None:
    names = [name for name in _shared(models) if name != "test_loss" or "log_loss" not in _shared(models)]
    names.sort(key=lambda name: name != metric)  # the metric that stands first; the others keep their order
    columns = ["metric", *(model.name for model in models)]
    columns += [f"{c.second} - {c.first}" if len(models) > 2 else "difference" for c in comparisons]
    columns += ["95 % interval"] if len(models) == 1 else []
    rows = []
    for name in names:
        cells = [number(model.evaluation.central.values[name]) for model in models]
        cells += [_change(comparison.central.get(name)) for comparison in comparisons]
        cells += [_interval(models[0].intervals.get(name))] if len(models) == 1 else []
        rows.append([METRICS[name].label, *cells])
    table(console, columns, rows, title="Central test set")
    if any(not comparison.paired for comparison in comparisons):
        console.print("the test rows are not the same, so differences have no interval", markup=False)
    elif comparisons:
        _render_interval(console, comparisons)


def _render_interval(console: Console, comparisons: Sequence[Comparison]) -> None:
    console.print("[ ]: 95 % interval, paired bootstrap over rows (over clients: resampling clients)", markup=False)
    for comparison in comparisons:
        p = comparison.central["accuracy"].p if "accuracy" in comparison.central else None
        if p is not None:
            pair = f"{comparison.second} against {comparison.first}"
            console.print(f"{pair}: McNemar's exact test of the accuracies, p = {p:.3g}", markup=False)
    console.print()


def _shared(models: Sequence[Evaluated]) -> list[str]:
    first, *rest = (model.evaluation.central.values for model in models)
    return [name for name in METRICS if name in first and all(name in other for other in rest)]


STATISTICS = ("weighted mean", "mean", "std", "worst", "worst 10%", "median", "best 10%", "best", "Jain index")


def _statistics(spread: Spread, *, higher: bool) -> tuple[float, ...]:
    """The values of `STATISTICS`."""
    q = spread.quantiles
    worst, best = (q[0.0], q[1.0]) if higher else (q[1.0], q[0.0])
    middle = (worst, spread.worst_decile, q[0.5], spread.best_decile, best)
    return (spread.weighted_mean, spread.mean, spread.std, *middle, spread.jain)


def _render_spreads(console: Console, model: Evaluated) -> None:
    """One model: every metric has a column."""
    found = {name: one for name, one in spreads(model.evaluation.clients).items() if name not in IN_FULL}
    columns = [_statistics(spread, higher=METRICS[name].higher_is_better) for name, spread in found.items()]
    rows = ([name, *map(number, values)] for name, *values in zip(STATISTICS, *columns, strict=True))
    clients = len(model.evaluation.clients.rows) - len(model.evaluation.clients.without_rows)
    table(console, ["", *(METRICS[name].label for name in found)], rows, title=f"Over {counted(clients, 'client')}")
    for name, spread in found.items():
        if spread.undefined:
            console.print(
                f"{METRICS[name].label}: undefined for {counted(spread.undefined, 'client')}, left out", markup=False
            )


def _render_spread_of(
    console: Console, models: Sequence[Evaluated], comparisons: Sequence[Comparison], metric: str
) -> None:
    """Several models: one metric, and every model has a column; then the differences of all metrics."""
    higher = METRICS[metric].higher_is_better
    columns = [_statistics(spreads(model.evaluation.clients)[metric], higher=higher) for model in models]
    rows = ([name, *map(number, values)] for name, *values in zip(STATISTICS, *columns, strict=True))
    names = [model.name for model in models]
    table(console, ["", *names], rows, title=f"Over clients, {METRICS[metric].label}")
    compared = [comparison for comparison in comparisons if comparison.clients]
    if compared:
        shared = [name for name in compared[0].clients if all(name in other.clients for other in compared)]
        changes = ([METRICS[name].label, *(_change(c.clients[name]) for c in compared)] for name in shared)
        title = f"Mean over clients, difference from {compared[0].first}"
        table(console, ["metric", *(c.second for c in compared)], changes, title=title)


def _render_sizes(console: Console, models: Sequence[Evaluated], metric: str) -> None:
    groups = [size_groups(model.evaluation.clients, metric) for model in models]
    sizes = [(group.smallest, group.largest, group.clients) for group in groups[0]]
    if len(sizes) < 2 or any([(g.smallest, g.largest, g.clients) for g in other] != sizes for other in groups):
        return
    rows = (
        [
            f"{low:,} to {high:,}",
            f"{clients:,}",
            *(cell for group in same for cell in (number(group.mean), number(group.worst))),
        ]
        for (low, high, clients), *same in zip(sizes, *groups, strict=True)
    )
    alone = len(models) == 1
    heads = [f"{part}" if alone else f"{model.name} {part}" for model in models for part in ("mean", "worst")]
    table(console, ["rows", "clients", *heads], rows, title=f"By size of the client, {METRICS[metric].label}")


def _render_clients(console: Console, models: Sequence[Evaluated], metric: str) -> None:
    """One model: every metric; several on the same clients: one metric of each. Worst first, by the first model."""
    first = models[0].evaluation.clients
    names = client_metrics(first) if len(models) == 1 else [metric]
    values = [model.evaluation.clients.values[name] for model in models for name in names]
    heads = [METRICS[name].label for name in names] if len(models) == 1 else [model.name for model in models]
    order = _worst_first(first, metric)
    shown = order
    if len(order) > SHOWN_CLIENTS:
        shown = np.concatenate([order[:SHOWN_EACH_END], order[-SHOWN_EACH_END:]])
    rows = (_client_cells(first, int(index), values) for index in shown)
    title = f"Clients by {METRICS[metric].label}, worst first"
    table(console, ["client", "rows", "test rows", *heads], rows, title=title)
    if len(shown) < len(order):
        hidden = len(order) - len(shown)
        console.print(f"{counted(hidden, 'client')} in between not shown; --csv FILE and --json have all", markup=False)


def _worst_first(scores: ClientScores, metric: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Client indices with test rows, from worst to best, those without the metric last."""
    values = scores.values[metric]
    order = np.argsort(values if METRICS[metric].higher_is_better else -values, kind="stable")
    return order[scores.rows[order] > 0]


def _client_cells(scores: ClientScores, index: int, columns: Sequence[np.ndarray[Any, Any]]) -> list[str]:
    sizes = (f"{int(scores.sizes[index]):,}", f"{int(scores.rows[index]):,}")
    return [str(scores.client_ids[index]), *sizes, *(number(float(column[index])) for column in columns)]


def _render_groups(console: Console, model: Evaluated, groups: Grouped | None, metric: str) -> None:
    found = None if groups is None else groups.of.get(model.name)
    if groups is None or found is None:
        return
    names = [name for name in GROUPED if name in model.evaluation.central.values and name != metric]
    heads = [groups.by, "rows", METRICS[metric].label, "95 % interval", *(METRICS[name].label for name in names)]
    rows = []
    for one in found:
        cells = [number(one.values.get(name, math.nan)) for name in (metric, *names)]
        rows.append([_visible(one.name), f"{one.rows:,}", cells[0], _interval(one.intervals.get(metric)), *cells[1:]])
    table(console, heads, rows, title=f"Test rows by {groups.by}, {model.name}")
    few = sum(not one.values for one in found)
    if few:
        console.print(f"{few} with fewer than {FLOOR} test rows: no figures", markup=False)


def _render_classes(console: Console, model: Evaluated) -> None:
    confusion = model.evaluation.central.confusion
    if confusion is None:
        return
    rows = (
        [_visible(name), *(number(row[part]) for part in ("precision", "recall", "f1")), f"{int(row['support']):,}"]
        for name, row in zip(model.classes, class_report(confusion), strict=True)
    )
    table(console, ("class", "precision", "recall", "F1", "rows"), rows, title=f"By class, {model.name}")


def _render_confusion(console: Console, model: Evaluated) -> None:
    counts = model.evaluation.central.confusion
    if counts is not None and len(counts) <= SHOWN_CLASSES:
        rows = (
            [name, *(f"{count:,}" if count else "·" for count in row)]
            for name, row in zip(model.classes, counts, strict=True)
        )
        table(console, ["truth \\ predicted", *model.classes], rows, title=f"Confusion matrix, {model.name}")
    elif counts is not None:
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
    return f"{round(change.value, 4) + 0.0:+.4f}{interval}"  # no "-0.0000"


def number(value: float) -> str:
    """Four decimals, or four digits from a thousand on; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"

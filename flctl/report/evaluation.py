"""Evaluations of several models: differences, spreads over clients, and all of it as plain data for `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flctl.evaluation.evaluate import ClientScores, Evaluated
from flctl.evaluation.metrics import class_report
from flctl.evaluation.spread import SizeGroup, Spread, by_size, spread
from flctl.evaluation.subgroups import Subgroup
from flctl.metrics import METRICS
from flctl.report.comparison import Difference, client_difference, differences

__all__ = ["Comparison", "Grouped", "as_data", "client_metrics", "client_rows", "compare", "size_groups", "spreads"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of `second` from `first`, by metric.

    `paired`: both models have the same test rows. Otherwise differences have no intervals and clients are not compared.
    """

    first: str
    second: str
    paired: bool
    central: Mapping[str, Difference]
    clients: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Subgroups of the test rows by the column `by`, for each model's name."""

    by: str
    of: Mapping[str, Sequence[Subgroup]]


def client_metrics(scores: ClientScores) -> list[str]:
    """The metrics that clients have, in the order of `METRICS`, without a second name for one value."""
    hidden = {"test_loss"} if "log_loss" in scores.values else set()
    return [name for name in METRICS if name in scores.values and name not in hidden]


def spreads(scores: ClientScores) -> dict[str, Spread]:
    """The spread over clients of each metric."""
    weights = scores.values["targets"]
    return {
        name: spread(scores.values[name], weights, higher_is_better=METRICS[name].higher_is_better)
        for name in client_metrics(scores)
    }


def compare(first: Evaluated, second: Evaluated, seed: int = 0) -> Comparison:
    """The second's metrics minus the first's, centrally and as the mean over clients."""
    a, b = first.evaluation, second.evaluation
    paired = first.rows_digest == second.rows_digest
    if paired:
        central = differences((a.central, a.central_outcomes), (b.central, b.central_outcomes), seed)
    else:
        both = (name for name in a.central.values if name in b.central.values)
        central = {name: Difference(b.central.values[name] - a.central.values[name]) for name in both}
    same_clients = first.partition_digest == second.partition_digest
    clients = {
        name: client_difference(a.clients.values[name], b.clients.values[name], seed)
        for name in (client_metrics(a.clients) if same_clients else ())
    }
    return Comparison(first.name, second.name, paired, central, clients)


def as_data(
    models: Sequence[Evaluated],
    comparisons: Sequence[Comparison],
    metric: str,
    *,
    per_client: bool,
    confusion: bool,
    per_class: bool = False,
    groups: Grouped | None = None,
) -> dict[str, Any]:
    """Returns the data of the `--json` envelope: {"metric", "runs": [...], "differences": [...]}."""
    runs = [_model_data(model, metric, per_client=per_client, confusion=confusion) for model in models]
    for model, run in zip(models, runs, strict=True):
        if per_class and model.evaluation.central.confusion is not None:
            report = class_report(model.evaluation.central.confusion)
            run["per_class"] = [{"class": name, **row} for name, row in zip(model.classes, report, strict=True)]
        if groups is not None and model.name in groups.of:
            run["subgroups"] = {"by": groups.by, "groups": [asdict(group) for group in groups.of[model.name]]}
    return {
        "metric": metric,
        "why": models[0].evaluation.headline.why if metric == models[0].evaluation.headline.metric else None,
        "runs": runs,
        "differences": [asdict(comparison) for comparison in comparisons],
    }


def _model_data(model: Evaluated, metric: str, *, per_client: bool, confusion: bool) -> dict[str, Any]:
    evaluation, scores = model.evaluation, model.evaluation.clients
    central = evaluation.central
    data: dict[str, Any] = {
        "run": model.name,
        "personal": model.personal,
        "round": model.round,
        "data": str(model.data),
        "partition_digest": model.partition_digest,
        "notes": list(model.notes),
        "central": {
            "rows": central.rows,
            "targets": central.targets,
            "non_finite": central.non_finite,
            **central.values,
        },
        "central_rows": "clients" if evaluation.pooled else "own",
        "intervals": {name: asdict(interval) for name, interval in model.intervals.items()},
        "positive": model.classes[evaluation.decision.positive] if _binary(model) else None,
        "threshold": None if model.threshold is None else asdict(model.threshold),
        "undefined": dict(central.notes),
        "federated": {} if model.withheld else {name: _spread_data(one) for name, one in spreads(scores).items()},
        "clients": len(scores.rows),
        "clients_without_test_rows": list(scores.without_rows),
        "by_size": [] if model.withheld else [asdict(group) for group in size_groups(scores, metric)],
    }
    if confusion and central.confusion is not None:
        data["confusion"] = {"classes": list(model.classes), "counts": central.confusion}
    if per_client:
        data["per_client"] = list(client_rows(scores))
    return data


def _binary(model: Evaluated) -> bool:
    return len(model.classes) == 2 and "recall" in model.evaluation.central.values


def _spread_data(spread: Spread) -> dict[str, Any]:
    data = asdict(spread)
    return {**data, "quantiles": {f"{q:g}": value for q, value in spread.quantiles.items()}}


def size_groups(scores: ClientScores, metric: str) -> tuple[SizeGroup, ...]:
    """Clients in up to five groups by size, with the metric in each."""
    return by_size(scores.values[metric], scores.sizes, higher_is_better=METRICS[metric].higher_is_better)


def client_rows(scores: ClientScores) -> Iterator[dict[str, Any]]:
    """Each client's numbers in client order: client, size, test_rows, targets and its metrics (NaN: undefined)."""
    names = client_metrics(scores)
    columns = [scores.values[name].tolist() for name in names]
    fixed = (scores.client_ids, scores.sizes.tolist(), scores.rows.tolist(), scores.values["targets"].tolist())
    for client, size, rows, targets, *values in zip(*fixed, *columns, strict=True):
        row = {"client": str(client), "size": size, "test_rows": rows, "targets": int(targets)}
        yield row | dict(zip(names, values, strict=True))

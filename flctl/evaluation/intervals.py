"""Bootstrap intervals of a model's metrics, and of paired differences of two models on the same rows.

Percentile method, seeded (Efron and Tibshirani 1993). Rows are drawn with replacement, and a metric is computed from
the rows of each draw; for a difference both models are scored on the same draw, so that rows that are hard for both
cancel. Rows are taken as independent of each other: where those of one client are not, draw clients
(`report.comparison.client_difference`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from flctl import seeds
from flctl.evaluation import bootstrap
from flctl.evaluation.binary import cells, rates
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.evaluation.ranking import Ranking, logit
from flctl.types import PADDING, FloatArray, IntArray

__all__ = ["Interval", "intervals", "paired_intervals", "wilson"]

FEWEST = 200
"""Draws of rankings of the largest test sets."""
RANKED = 5_000_000
"""Row draws of a ranking, rows x draws, that are aimed at."""
MOST_RANKED = 500_000
"""Rows x classes beyond which the AUROC and AUPRC of more than two classes have no interval."""
MOST_CLASSES = 30
"""Classes beyond which balanced accuracy and macro F1 have no interval."""
AT_ONCE = 1 << 18
"""Numbers of an array that is made at once: as many as stay in the cache."""
UNDEFINED = 0.05
"""Fraction of draws without the metric (as AUROC without a positive) beyond which there is no interval."""

Outcomes = ClassificationOutcomes | RegressionOutcomes


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds that hold the value with 95 % confidence."""

    low: float
    high: float


def intervals(outcomes: Outcomes, classes: int, positive: int = 1, seed: int = 0) -> dict[str, Interval]:
    """Metric -> interval, for those that rows define: means over rows, F1 and its kin, AUROC, AUPRC, R2, RMSE.
    Shares of rows of two classes (accuracy, recall and so on) have Wilson's.

    `classes` is the number of classes (0: regression), `positive` the code of the positive one of two. KS and
    calibration error have none: their draws are biased upwards. Empty for fewer than two rows, or for outputs that are
    not finite.

    >>> from flctl.evaluation.outcomes import outcomes_of
    >>> rows = outcomes_of("regression", np.arange(9.0)[:, None], np.arange(9.0) + 1)
    >>> intervals(rows, 0)["mae"]
    Interval(low=1.0, high=1.0)
    """
    drawn = _drawn([outcomes], classes, positive, seed)
    found = {name: bounds for name, (values,) in drawn if (bounds := _bounds(values))}
    return found | (_proportions(outcomes, positive) if found and classes == 2 else {})


def paired_intervals(
    first: Outcomes, second: Outcomes, classes: int, positive: int = 1, seed: int = 0
) -> dict[str, Interval]:
    """Metric -> interval of the second model's metric minus the first's, for rows that both scored in one order.

    Raises ValueError when the rows differ.
    """
    if len(first) != len(second) or not np.array_equal(first.count, second.count):
        raise ValueError("the two models were not evaluated on the same rows")
    drawn = _drawn([first, second], classes, positive, seed)
    return {name: found for name, (a, b) in drawn if (found := _bounds(b - a))}


def wilson(rate: FloatArray, n: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns bounds of proportions of n rows (Wilson 1927); they have a width where every row is right, too.

    >>> [float(round(bound, 2)) for bound in wilson(np.array(1.0), np.array(39.0))]
    [0.91, 1.0]
    """
    z = 1.959964
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.asarray(middle - half), np.asarray(np.minimum(middle + half, 1.0))


def _proportions(outcomes: Outcomes, positive: int) -> dict[str, Interval]:
    """Intervals of the metrics of two classes that are a share of rows."""
    if not isinstance(outcomes, ClassificationOutcomes) or outcomes.truth.ndim > 1:
        return {}
    tp, fn, fp, tn = (float(cell.sum()) for cell in cells(outcomes, positive).values())
    shares = {"recall": (tp, fn), "specificity": (tn, fp), "precision": (tp, fp), "npv": (tn, fn)}
    shares["accuracy"] = (tp + tn, fp + fn)
    return {
        name: Interval(*map(float, wilson(np.array(right / (right + wrong)), np.array(right + wrong))))
        for name, (right, wrong) in shares.items()
        if right + wrong
    }


def _products(weights: FloatArray, columns: FloatArray) -> FloatArray:
    """Returns the sums [c, k] of columns [k, n] under weights [c, n]; added in one thread, so always in one order."""
    return np.stack([np.einsum("ci,i->c", weights, column) for column in columns], axis=1)


def _bounds(values: FloatArray) -> Interval | None:
    defined = values[np.isfinite(values)]
    return Interval(*bootstrap.percentile_interval(defined)) if len(defined) > (1 - UNDEFINED) * len(values) else None


class _RowDraws:
    """Multiplicities of rows in draws with replacement. More than `BLOCKS` rows are drawn in that many random blocks,
    which are as independent as the rows, and whose sums have the same variance."""

    def __init__(self, rows: int, seed: int) -> None:
        self._seed, self._rows = seed, rows
        self.block: IntArray | None = None
        if rows > bootstrap.BLOCKS:
            self.block = seeds.rng(seed, "bootstrap", "blocks").permutation(rows) % bootstrap.BLOCKS

    def blocked(self, columns: Iterable[FloatArray]) -> FloatArray:
        """Returns the sums [k, blocks] of k columns [n]."""
        if self.block is None:
            return np.stack(list(columns))
        return np.stack([np.bincount(self.block, column, bootstrap.BLOCKS) for column in columns])

    def chunks(self) -> Iterator[FloatArray]:
        """Yields the multiplicities [c, blocks] of all draws, c at a time so that [c, rows] fits `AT_ONCE`."""
        drawn = bootstrap.draws(min(self._rows, bootstrap.BLOCKS), self._seed)
        step = max(1, AT_ONCE // self._rows)
        while chunk := list(islice(drawn, step)):
            yield np.stack(chunk).astype(np.float64)


def _drawn(
    models: Sequence[Outcomes], classes: int, positive: int, seed: int
) -> Iterator[tuple[str, list[FloatArray]]]:
    """Yields each metric with its values in all draws, for each model."""
    rows = len(models[0])
    if rows < 2 or not all(np.isfinite(model.loss).all() for model in models):
        return
    draws, tables = _RowDraws(rows, seed), [_sums_of(model, classes, positive) for model in models]
    sums = [draws.blocked(table.columns.values()) for table in tables]
    rankings = _Rankings(models, positive)
    parts: list[list[FloatArray]] = [[] for _ in models]
    for weights in draws.chunks():
        for part, one in zip(parts, sums, strict=True):
            part.append(_products(weights, one))
        rankings.add(weights, draws.block)
    found = [
        table.metrics(dict(zip(table.columns, np.concatenate(part).T, strict=True)))
        for table, part in zip(tables, parts, strict=True)
    ]
    for name in found[0]:
        yield name, [one[name] for one in found]
    yield from rankings.found()


# -- metrics of sums -----------------------------------------------------------------------------------------

Sums = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class _SummedMetrics:
    """Columns [n] of rows, and the metrics [draws] of their sums [draws]."""

    columns: Mapping[str, FloatArray]
    metrics: Callable[[Sums], dict[str, FloatArray]]


def _sums_of(outcomes: Outcomes, classes: int, positive: int) -> _SummedMetrics:
    if isinstance(outcomes, RegressionOutcomes):
        return _measured(outcomes)
    columns = {"count": outcomes.count.astype(np.float64), "loss": outcomes.loss}
    columns |= {"correct": outcomes.correct, "brier": outcomes.brier}
    if outcomes.truth.ndim > 1:
        return _SummedMetrics(columns, _text_metrics)
    if classes == 2:
        return _SummedMetrics(
            columns | {name: cell.astype(np.float64) for name, cell in cells(outcomes, positive).items()},
            _binary_metrics,
        )
    if classes <= MOST_CLASSES:
        return _SummedMetrics(columns | _by_class(outcomes, classes), partial(_class_metrics, classes=classes))
    return _SummedMetrics(columns, _mean_metrics)


def _measured(outcomes: RegressionOutcomes) -> _SummedMetrics:
    error = outcomes.prediction - outcomes.truth
    # Centred, so that the variance is no difference of two large sums.
    centred = outcomes.truth - outcomes.truth.mean()
    columns = {"count": outcomes.count.astype(np.float64), "loss": outcomes.loss, "absolute": np.abs(error)}
    return _SummedMetrics(columns | {"square": error**2, "truth": centred, "spread": centred**2}, _measured_metrics)


def _measured_metrics(sums: Sums) -> dict[str, FloatArray]:
    count = sums["count"]
    variance = sums["spread"] - sums["truth"] ** 2 / count
    # A draw of equal targets leaves rounding noise, not variance.
    variance = np.where(variance > 1e-9 * sums["spread"], variance, np.nan)
    return {
        "test_loss": sums["loss"] / count,
        "mae": sums["absolute"] / count,
        "rmse": np.sqrt(sums["square"] / count),
        "r2": 1 - sums["square"] / variance,
    }


def _mean_metrics(sums: Sums) -> dict[str, FloatArray]:
    count = np.maximum(sums["count"], 1)
    loss = sums["loss"] / count
    return {"test_loss": loss, "log_loss": loss, "accuracy": sums["correct"] / count, "brier": sums["brier"] / count}


def _text_metrics(sums: Sums) -> dict[str, FloatArray]:
    found = _mean_metrics(sums)
    with np.errstate(over="ignore"):
        perplexity = np.exp(found["log_loss"])
    return found | {"perplexity": perplexity, "bits_per_character": found["log_loss"] / math.log(2)}


def _binary_metrics(sums: Sums) -> dict[str, FloatArray]:
    tp, fn, fp, tn = (sums[name] for name in ("tp", "fn", "fp", "tn"))
    found = rates(tp, fn, fp, tn)
    balanced = _mean_defined(np.stack([found["recall"], found["specificity"]]))
    f1 = _mean_defined(np.stack([found["f1"], rates(tn, fp, fn, tp)["f1"]]))
    return _mean_metrics(sums) | {"balanced_accuracy": balanced, "macro_f1": f1} | found


def _by_class(outcomes: ClassificationOutcomes, classes: int) -> dict[str, FloatArray]:
    columns = {}
    for k in range(classes):
        truth, guess = outcomes.truth == k, outcomes.prediction == k
        for name, flags in (("tp", truth & guess), ("truth", truth), ("guess", guess)):
            columns[f"{name}{k}"] = flags.astype(np.float64)
    return columns


def _class_metrics(sums: Sums, classes: int) -> dict[str, FloatArray]:
    tp, truth, guess = (np.stack([sums[f"{name}{k}"] for k in range(classes)]) for name in ("tp", "truth", "guess"))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = _mean_defined(tp / truth), _mean_defined(2 * tp / (truth + guess))
    return _mean_metrics(sums) | {"balanced_accuracy": recall, "macro_f1": f1}


def _mean_defined(values: FloatArray) -> FloatArray:
    """The mean over the first axis without NaN; NaN where all are."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan))


# -- rankings ------------------------------------------------------------------------------------------------


class _Rankings:
    """AUROC and AUPRC of models in the first draws; the more rows there are, the fewer draws."""

    def __init__(self, models: Sequence[Outcomes], positive: int) -> None:
        self._models = [_rankings(model, positive) for model in models]
        self._left = 0
        if all(self._models):
            self._left = int(np.clip(RANKED // (len(models[0]) * len(self._models[0])), FEWEST, bootstrap.RESAMPLES))
        self._areas: list[list[FloatArray]] = [[] for _ in models]

    def add(self, weights: FloatArray, block: IntArray | None) -> None:
        """Takes draws of rows, [c, n], or of blocks of them."""
        weights, self._left = weights[: self._left], max(0, self._left - len(weights))
        if not len(weights):
            return
        weights = weights if block is None else weights[:, block]
        for areas, rankings in zip(self._areas, self._models, strict=True):
            areas.append(_mean_defined(np.stack([one.areas(weights) for one in rankings])))

    def found(self) -> Iterator[tuple[str, list[FloatArray]]]:
        """Yields each metric with its values in all draws, for each model."""
        if self._areas[0]:
            joined = [np.concatenate(areas, axis=1) for areas in self._areas]
            yield "auroc", [one[0] for one in joined]
            yield "auprc", [one[1] for one in joined]


def _rankings(outcomes: Outcomes, positive: int) -> list[Ranking]:
    """One ranking of two classes; of more, one for each class that has rows. Empty without scores or beyond a size."""
    if isinstance(outcomes, RegressionOutcomes) or outcomes.log_probability is None:
        return []
    scores = outcomes.log_probability
    if scores.shape[1] == 2:
        return [Ranking(logit(scores, positive), outcomes.truth == positive)]
    present = np.unique(outcomes.truth[outcomes.truth != PADDING])
    if len(present) * len(outcomes) > MOST_RANKED:
        return []
    return [Ranking(scores[:, k], outcomes.truth == k) for k in present.tolist()]

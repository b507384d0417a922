"""Two models on the same test rows: differences, with intervals that know the rows are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flctl.evaluation.bootstrap import percentile_interval, resampled_sums
from flctl.evaluation.intervals import paired_intervals
from flctl.evaluation.metrics import Scores
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.types import FloatArray

__all__ = ["Difference", "client_difference", "differences", "mcnemar"]


@dataclass(frozen=True, slots=True)
class Difference:
    """`value` is the second model's metric minus the first's; `low` and `high` bound it with 95 % confidence (None
    where no interval is computed); `p` is McNemar's, for accuracy."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def differences(
    first: tuple[Scores, ClassificationOutcomes | RegressionOutcomes],
    second: tuple[Scores, ClassificationOutcomes | RegressionOutcomes],
    seed: int = 0,
) -> dict[str, Difference]:
    """Metric -> difference, for models that scored the same rows in the same order.

    Metrics that `bootstrap.paired_intervals` has get an interval; rows are taken as independent, and where those of one
    client are not, `client_difference` allows for it. Raises ValueError when the rows differ.
    """
    (scores_a, a), (scores_b, b) = first, second
    classes = 0 if scores_a.confusion is None else len(scores_a.confusion)
    intervals = paired_intervals(a, b, classes, scores_a.positive, seed)
    p = (
        mcnemar(a, b)
        if isinstance(a, ClassificationOutcomes) and isinstance(b, ClassificationOutcomes) and a.truth.ndim == 1
        else None
    )
    result = {}
    for name in (name for name in scores_a.values if name in scores_b.values):
        found, change = intervals.get(name), scores_b.values[name] - scores_a.values[name]
        low, high = (None, None) if found is None else (found.low, found.high)
        result[name] = Difference(change, low, high, p if name == "accuracy" else None)
    return result


def client_difference(first: FloatArray, second: FloatArray, seed: int = 0) -> Difference:
    """The mean over clients of the second's metric minus the first's, each client counted once, with a bootstrap
    interval that draws clients. Clients where either is NaN are left out."""
    change = second - first
    change = change[np.isfinite(change)]
    if not len(change):
        return Difference(math.nan)
    if len(change) == 1:
        return Difference(float(change[0]))
    drawn = resampled_sums(np.stack([np.ones(len(change)), change], axis=1), seed)
    return Difference(float(change.mean()), *percentile_interval(drawn[:, 1] / drawn[:, 0]))


def mcnemar(a: ClassificationOutcomes, b: ClassificationOutcomes) -> float:
    """The exact two-sided p of McNemar's test (1947): under no difference, the rows that only one model has right
    fall on either side like coin tosses."""
    only_a = int(((a.correct == 1) & (b.correct == 0)).sum())
    only_b = int(((b.correct == 1) & (a.correct == 0)).sum())
    total, fewer = only_a + only_b, min(only_a, only_b)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1, dtype=np.float64)))])
    k = np.arange(fewer + 1)
    tail = np.exp(logs[total] - logs[k] - logs[total - k] - total * math.log(2)).sum()
    return min(1.0, 2 * float(tail))

"""Metrics of a model over all rows (`score`) and per client (`client_scores`). Numpy only.

Names, formulas and sources are in docs/evaluate.md. A metric that the data does not define (AUROC with one class,
R2 of a constant target) is NaN and has a note that says why; it never raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import ConfigError, counted
from flctl.evaluation.outcomes import ClassificationOutcomes, Outcomes, RegressionOutcomes, segment_sums
from flctl.evaluation.ranking import auroc
from flctl.types import PADDING, FloatArray, IntArray, TaskKind

__all__ = [
    "METRICS",
    "Metric",
    "Scores",
    "balanced_accuracy",
    "calibration_error",
    "client_scores",
    "confusion_matrix",
    "higher_is_better",
    "macro_auroc",
    "macro_f1",
    "primary_metric",
    "quick_score",
    "r2",
    "score",
]

LABELS: tuple[TaskKind, ...] = ("classification", "binary", "next-character")
CLASSES: tuple[TaskKind, ...] = ("classification", "binary")
BINS = 15


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name in JSON, what people read, which way is better, and the tasks that have it."""

    name: str
    label: str
    higher_is_better: bool
    tasks: tuple[TaskKind, ...]


_ALL = (
    Metric("test_loss", "MSE (standardised)", False, (*LABELS, "regression")),
    Metric("validation_loss", "validation loss", False, (*LABELS, "regression")),
    Metric("log_loss", "log loss (nats)", False, LABELS),
    Metric("accuracy", "accuracy", True, LABELS),
    Metric("balanced_accuracy", "balanced accuracy", True, LABELS),
    Metric("macro_f1", "macro F1", True, LABELS),
    Metric("auroc", "AUROC", True, CLASSES),
    Metric("calibration_error", "calibration error", False, LABELS),
    Metric("brier", "Brier score", False, LABELS),
    Metric("perplexity", "perplexity", False, ("next-character",)),
    Metric("bits_per_character", "bits per character", False, ("next-character",)),
    Metric("mae", "MAE", False, ("regression",)),
    Metric("rmse", "RMSE", False, ("regression",)),
    Metric("r2", "R2", True, ("regression",)),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics over `rows` rows with `targets` scored targets; `non_finite` rows had NaN or infinite outputs.

    `notes` says, by metric, why a value is NaN or what it leaves out. `confusion` [classes, classes] int64
    counts truth x prediction (None for regression).
    """

    rows: int
    targets: int
    values: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    non_finite: int = 0
    confusion: IntArray | None = None


def primary_metric(kind: TaskKind) -> tuple[str, bool]:
    """The metric that "best" means where the user names none, and whether higher is better."""
    name = "rmse" if kind == "regression" else "accuracy"
    return name, METRICS[name].higher_is_better


def higher_is_better(name: str) -> bool:
    """Which way a metric improves. Raises ConfigError for an unknown name."""
    if name not in METRICS:
        from flctl.errors import suggest

        raise ConfigError(f"unknown metric '{name}'", hint=suggest(name, METRICS) or f"Known: {', '.join(METRICS)}.")
    return METRICS[name].higher_is_better


def score(outcomes: ClassificationOutcomes | RegressionOutcomes, classes: Sequence[str]) -> Scores:
    """Every metric that the task has. `classes` name the codes: classes or characters, empty for regression."""
    if isinstance(outcomes, RegressionOutcomes):
        return _finished(outcomes, *_measured_values(outcomes))
    confusion = confusion_matrix(outcomes.truth, outcomes.prediction, len(classes))
    return _finished(outcomes, *_labelled_values(outcomes, confusion, classes), confusion)


def quick_score(outcomes: ClassificationOutcomes | RegressionOutcomes) -> dict[str, float]:
    """The metrics that cost one pass: `test_loss` and accuracy (next character: also perplexity), or MAE, RMSE
    and R2. Rows with outputs that are not finite make them NaN and add `non_finite`, the number of such rows."""
    if isinstance(outcomes, RegressionOutcomes):
        values = _measured_values(outcomes)[0]
    else:
        values = {"test_loss": _mean(outcomes.loss, outcomes), "accuracy": _mean(outcomes.correct, outcomes)}
        if outcomes.truth.ndim > 1:
            values["perplexity"] = _exp(values["test_loss"])
    bad = _non_finite(outcomes)
    return {**values, "non_finite": float(bad)} if bad else values


def _finished(
    outcomes: Outcomes, values: dict[str, float], notes: dict[str, str], confusion: IntArray | None = None
) -> Scores:
    rows, bad = len(outcomes), _non_finite(outcomes)
    if bad or not outcomes.count.any():
        reason = (
            f"{bad} of {counted(rows, 'row')} with outputs that are not finite" if bad else "there are no test rows"
        )
        values, notes = dict.fromkeys(values, math.nan), dict.fromkeys(values, reason)
    return Scores(rows, int(outcomes.count.sum()), values, notes, bad, confusion)


def _non_finite(outcomes: Outcomes) -> int:
    return int(np.isnan(outcomes.loss).sum())


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _mean(sums: FloatArray, outcomes: Outcomes) -> float:
    return _ratio(float(sums.sum()), float(outcomes.count.sum()))


def _exp(value: float) -> float:
    return math.exp(value) if not value > 709 else math.inf


# -- labels ------------------------------------------------------------------------------------------------


def _labelled_values(
    outcomes: ClassificationOutcomes, confusion: IntArray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    loss = _mean(outcomes.loss, outcomes)
    bins = _calibration_bins(outcomes)
    values = {
        "test_loss": loss,
        "log_loss": loss,
        "accuracy": _mean(outcomes.correct, outcomes),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "calibration_error": calibration_error(bins),
        "brier": _mean(outcomes.brier, outcomes),
    }
    if outcomes.truth.ndim > 1:
        values |= {"perplexity": _exp(loss), "bits_per_character": loss / math.log(2)}
    if outcomes.log_probability is not None:
        values["auroc"] = macro_auroc(outcomes.log_probability, outcomes.truth)
    notes = {name: why for name, why in _absent_note(confusion, classes).items() if name in values}
    if math.isnan(values.get("auroc", 0.0)):
        notes["auroc"] = "undefined: the test rows have only one class"
    return values, notes


def _absent_note(confusion: IntArray, classes: Sequence[str]) -> dict[str, str]:
    absent = [name for name, rows in zip(classes, confusion.sum(axis=1), strict=True) if not rows]
    if not absent:
        return {}
    named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    sentence = f"mean over the classes that have test rows; classes without: {named}"
    return dict.fromkeys(("balanced_accuracy", "auroc") if len(classes) > 2 else ("balanced_accuracy",), sentence)


def confusion_matrix(
    truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]], classes: int
) -> IntArray:
    """Counts [classes, classes]: row the truth, column the prediction; codes of -1 are left out."""
    kept = (truth != PADDING) & (prediction != PADDING)
    cells = truth[kept].astype(np.int64) * classes + prediction[kept]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def balanced_accuracy(confusion: IntArray) -> float:
    """The mean recall over the classes that occur in the truth; NaN without rows."""
    support = confusion.sum(axis=1)
    present = support > 0
    return float((confusion.diagonal()[present] / support[present]).mean()) if present.any() else math.nan


def macro_f1(confusion: IntArray) -> float:
    """The mean of 2 tp / (2 tp + fp + fn) over the classes that occur in the truth or the predictions."""
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = total > 0
    return float((2 * confusion.diagonal()[present] / total[present]).mean()) if present.any() else math.nan


def macro_auroc(log_probability: npt.NDArray[Any], truth: npt.NDArray[np.integer[Any]]) -> float:
    """The mean one-against-the-rest AUROC over the classes that have rows of both kinds (Fawcett 2006); for two
    classes the AUROC of class 1. NaN when no class has."""
    if log_probability.shape[1] == 2:
        return float(auroc(log_probability[:, 1].astype(np.float64) - log_probability[:, 0], truth == 1)[0])
    areas = [float(auroc(log_probability[:, k], truth == k)[0]) for k in np.unique(truth)]
    defined = [area for area in areas if not math.isnan(area)]
    return sum(defined) / len(defined) if defined else math.nan


def _calibration_bins(outcomes: ClassificationOutcomes) -> FloatArray:
    scored = ~np.isnan(outcomes.confidence)
    confidence = outcomes.confidence[scored].astype(np.float64)
    correct = (outcomes.prediction == outcomes.truth)[scored].astype(np.float64)
    # Bin m is (m/M, (m+1)/M], as in the paper, so a confidence of exactly 1 falls into the last one.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    columns = [np.bincount(bins, weights, BINS) for weights in (None, confidence, correct)]
    return np.stack(columns, axis=1).astype(np.float64)


def calibration_error(bins: FloatArray) -> float:
    """Expected calibration error from bins [M, 3] of (count, summed confidence, summed correct):
    sum_m (n_m / n) |accuracy_m - confidence_m| (Guo et al. 2017, equation 3)."""
    return _ratio(float(np.abs(bins[:, 2] - bins[:, 1]).sum()), float(bins[:, 0].sum()))


# -- numbers -----------------------------------------------------------------------------------------------


def _measured_values(outcomes: RegressionOutcomes) -> tuple[dict[str, float], dict[str, str]]:
    error = outcomes.prediction - outcomes.truth
    values = {
        "test_loss": _mean(outcomes.loss, outcomes),
        "mae": _mean(np.abs(error), outcomes),
        "rmse": math.sqrt(_mean(error**2, outcomes)),
        "r2": float(r2(outcomes.truth, error, np.array([0, len(outcomes)]))[0]),
    }
    undefined = "undefined: the target is constant over the test rows"
    return values, {"r2": undefined} if math.isnan(values["r2"]) else {}


def r2(truth: FloatArray, error: FloatArray, offsets: IntArray) -> FloatArray:
    """1 - sum error^2 / sum (truth - mean)^2 of each segment; NaN where the truth is constant or missing."""
    sizes = np.diff(offsets)
    means = segment_sums(truth, offsets) / np.maximum(sizes, 1)
    spread = segment_sums((truth - np.repeat(means, sizes)) ** 2, offsets)
    # The two-pass sum of a constant is rounding noise of this size, not variance.
    noise = sizes * (np.abs(means) * 4 * np.finfo(np.float64).eps) ** 2
    spread[spread <= noise] = np.nan
    return np.asarray(1 - segment_sums(error**2, offsets) / spread)


# -- clients -----------------------------------------------------------------------------------------------


def client_scores(outcomes: ClassificationOutcomes | RegressionOutcomes, offsets: IntArray) -> dict[str, FloatArray]:
    """Metric -> one value per client [K], for clients whose rows are offsets[k]:offsets[k + 1]; without a Python
    loop over clients. `targets` counts what each was scored on; a client without any has NaN."""
    targets = segment_sums(outcomes.count, offsets).astype(np.float64)
    divisor = np.where(targets > 0, targets, np.nan)
    result = {"targets": targets, "test_loss": segment_sums(outcomes.loss, offsets) / divisor}
    if isinstance(outcomes, RegressionOutcomes):
        return result | _client_measured(outcomes, offsets, divisor)
    result["log_loss"] = result["test_loss"]
    result["accuracy"] = segment_sums(outcomes.correct, offsets) / divisor
    if outcomes.truth.ndim > 1:
        with np.errstate(over="ignore"):
            perplexity = np.exp(result["test_loss"])
        return result | {"perplexity": perplexity, "bits_per_character": result["test_loss"] / math.log(2)}
    result |= _client_classes(outcomes, offsets)
    scores = outcomes.log_probability
    if scores is not None and scores.shape[1] == 2:
        result["auroc"] = auroc(scores[:, 1].astype(np.float64) - scores[:, 0], outcomes.truth == 1, offsets)
    bad = np.isnan(result["test_loss"])
    return {name: np.where(bad & (name != "targets"), np.nan, values) for name, values in result.items()}


def _client_measured(outcomes: RegressionOutcomes, offsets: IntArray, divisor: FloatArray) -> dict[str, FloatArray]:
    error = outcomes.prediction - outcomes.truth
    return {
        "mae": segment_sums(np.abs(error), offsets) / divisor,
        "rmse": np.sqrt(segment_sums(error**2, offsets) / divisor),
        "r2": r2(outcomes.truth, error, offsets),
    }


def _client_classes(outcomes: ClassificationOutcomes, offsets: IntArray) -> dict[str, FloatArray]:
    """Balanced accuracy and macro F1 per client, from the (client, class) pairs that occur: memory grows with
    rows, not with clients x classes."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    stride = int(max(outcomes.truth.max(initial=0), outcomes.prediction.max(initial=0))) + 2
    truth_key = owner * stride + outcomes.truth + 1
    guess_key = owner * stride + outcomes.prediction + 1
    pairs, cells = np.unique(np.concatenate([truth_key, guess_key]), return_inverse=True)
    size, rows = len(pairs), len(owner)
    support = np.bincount(cells[:rows], minlength=size)
    guessed = np.bincount(cells[rows:], minlength=size)
    right = np.bincount(cells[:rows][outcomes.truth == outcomes.prediction], minlength=size)
    pair_owner = pairs // stride
    clients = len(offsets) - 1
    return {
        "balanced_accuracy": _mean_by(pair_owner, right / np.maximum(support, 1), support > 0, clients),
        "macro_f1": _mean_by(pair_owner, 2 * right / np.maximum(support + guessed, 1), size, clients),
    }


def _mean_by(owner: IntArray, values: FloatArray, kept: npt.NDArray[np.bool_] | int, clients: int) -> FloatArray:
    chosen = np.ones(kept, bool) if isinstance(kept, int) else kept
    count = np.bincount(owner[chosen], minlength=clients)
    sums = np.bincount(owner[chosen], values[chosen], clients)
    return sums / np.where(count > 0, count, np.nan)

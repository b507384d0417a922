"""Metrics of a model over all rows. Numpy only.

Names, formulas and sources are in docs/evaluate.md. A metric that the data does not define (AUROC with one class,
R2 of a constant target) is NaN and has a note that says why; it never raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import counted
from flctl.evaluation.binary import cells, rates
from flctl.evaluation.outcomes import ClassificationOutcomes, Outcomes, RegressionOutcomes, segment_sums
from flctl.evaluation.ranking import auroc, average_precision, ks, logit
from flctl.types import PADDING, FloatArray, IntArray

__all__ = [
    "Scores",
    "balanced_accuracy",
    "calibration_error",
    "class_report",
    "confusion_matrix",
    "macro_auprc",
    "macro_auroc",
    "macro_f1",
    "quick_score",
    "r2",
    "score",
]

BINS = 15
ONE_CLASS = "undefined: the test rows have only one class"
NO_POSITIVE, NO_NEGATIVE = "undefined: no test row is positive", "undefined: no test row is negative"
UNDEFINED = {
    "recall": NO_POSITIVE,
    "auprc": NO_POSITIVE,
    "specificity": NO_NEGATIVE,
    "precision": "undefined: no row is predicted positive",
    "npv": "undefined: no row is predicted negative",
    "f1": "undefined: no row is positive, or predicted so",
    "ks": ONE_CLASS,
}
"""Metric of two classes -> the reason for which it has no value."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics over `rows` rows with `targets` scored targets; `non_finite` rows had NaN or infinite outputs.

    `notes` says, by metric, why a value is NaN or what it leaves out. `confusion` [classes, classes] int64
    counts truth x prediction (None for regression). `positive` is the code of the positive one of two classes.
    """

    rows: int
    targets: int
    values: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    non_finite: int = 0
    confusion: IntArray | None = None
    positive: int = 1


def score(outcomes: ClassificationOutcomes | RegressionOutcomes, classes: Sequence[str], positive: int = 1) -> Scores:
    """Every metric that the task has. `classes` name the codes: classes or characters, empty for regression;
    `positive` is the code of the positive one of two classes."""
    if isinstance(outcomes, RegressionOutcomes):
        return _finished(outcomes, *_measured_values(outcomes))
    confusion = confusion_matrix(outcomes.truth, outcomes.prediction, len(classes))
    scores = _finished(outcomes, *_labelled_values(outcomes, confusion, classes, positive), confusion)
    return replace(scores, positive=positive)


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
    outcomes: ClassificationOutcomes, confusion: IntArray, classes: Sequence[str], positive: int
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
        values["auprc"] = macro_auprc(outcomes.log_probability, outcomes.truth, positive)
    notes = {name: why for name, why in _absent_note(confusion, classes).items() if name in values}
    if len(classes) == 2 and outcomes.truth.ndim == 1:
        values |= _binary_values(outcomes, positive)
        notes |= {name: why for name, why in UNDEFINED.items() if math.isnan(values.get(name, 0.0))}
    if math.isnan(values.get("auroc", 0.0)):
        notes["auroc"] = ONE_CLASS
    return values, notes


def _binary_values(outcomes: ClassificationOutcomes, positive: int) -> dict[str, float]:
    found = rates(**{name: float(cell.sum()) for name, cell in cells(outcomes, positive).items()})
    values = {name: float(value) for name, value in found.items()}
    if outcomes.log_probability is not None:
        values["ks"] = float(ks(logit(outcomes.log_probability, positive), outcomes.truth == positive)[0])
    return values


def class_report(confusion: IntArray) -> list[dict[str, float]]:
    """Returns `precision`, `recall`, `f1`, `support` (rows of the class) and `predicted` of each class; NaN where
    undefined."""
    right, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    found = rates(right, support - right, predicted - right, 0)
    columns = [found[name].tolist() for name in ("precision", "recall", "f1")]
    return [
        {"precision": p, "recall": r, "f1": f, "support": n, "predicted": m}
        for p, r, f, n, m in zip(*columns, support.tolist(), predicted.tolist(), strict=True)
    ]


def _absent_note(confusion: IntArray, classes: Sequence[str]) -> dict[str, str]:
    absent = [name for name, rows in zip(classes, confusion.sum(axis=1), strict=True) if not rows]
    if not absent:
        return {}
    named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    sentence = f"mean over the classes that have test rows; classes without: {named}"
    names = ("balanced_accuracy", "auroc", "auprc") if len(classes) > 2 else ("balanced_accuracy",)
    return dict.fromkeys(names, sentence)


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


def macro_auprc(log_probability: npt.NDArray[Any], truth: npt.NDArray[np.integer[Any]], positive: int = 1) -> float:
    """The average precision of the positive one of two classes; of more, the mean of one against the rest over the
    classes that have rows. NaN when no class has."""
    if log_probability.shape[1] == 2:
        return float(average_precision(logit(log_probability, positive), truth == positive)[0])
    areas = [float(average_precision(log_probability[:, k], truth == k)[0]) for k in np.unique(truth)]
    return sum(areas) / len(areas) if areas else math.nan


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

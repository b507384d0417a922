"""Evaluation by sums over rows, which add up over clients: counts, loss, confusion, and a histogram of scores.

Accuracy and all metrics of the confusion matrix come out exactly as over all rows together; the loss up to its rounding
to 2^-24; AUROC and KS up to the width of a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flctl.errors import ProtocolError, counted
from flctl.evaluation.binary import rates
from flctl.evaluation.metrics import balanced_accuracy, confusion_matrix, macro_f1
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.evaluation.ranking import logit
from flctl.types import IntArray, TaskKind

__all__ = ["BINS", "MOST_CLASSES", "RowSums"]

BINS = 1000
"""Bins of the histogram of scores, of equal width in log-odds."""
MOST_CLASSES = 512
"""Most classes whose confusion matrix is summed."""
_WIDEST = 12.0
"""Log-odds beyond which scores share the outermost bins."""
_UNIT = float(1 << 24)
_LARGEST = float(1 << 64)
"""Largest magnitude of a client's sum of losses or targets; a larger one counts as not finite."""
_LONGEST_ROW = 1 << 20
"""Most targets of a row of characters."""
_HEAD = 4
"""Sums before those of the task: rows, targets, rows with outputs that are not finite, and the loss."""
_MOMENTS = 3
"""Sums of a regression: absolute errors, targets, squared targets."""
Outcomes = ClassificationOutcomes | RegressionOutcomes


@dataclass(frozen=True, slots=True)
class RowSums:
    """Sums over rows of a task, and the metrics that follow from them.

    `classes` is the number of classes or characters, 0 for a regression; `positive` the code of the positive one of
    two; `scale` (shift, scale) leads targets of a regression to the data's units.
    """

    task: TaskKind
    classes: int
    positive: int = 1
    scale: tuple[float, float] = (0.0, 1.0)

    @property
    def size(self) -> int:
        """Number of sums."""
        histogram = 2 * BINS if self._ranks else 0
        return _HEAD + (self.classes**2 + histogram if self.classes else _MOMENTS)

    @property
    def keep_scores(self) -> bool:
        """True if the sums need each row's scores."""
        return self._ranks

    @property
    def _ranks(self) -> bool:
        return self.classes == 2 and self.task != "next-character"

    def of(self, outcomes: Outcomes) -> list[int]:
        """Returns the sums over the rows of `outcomes`."""
        bad = np.isnan(outcomes.loss)
        loss = float(outcomes.loss[~bad].sum())
        rest = self._moments(outcomes) if isinstance(outcomes, RegressionOutcomes) else self._counts(outcomes)
        whole = [_fixed(loss), *rest]
        lost = int(bad.sum())
        if any(value is None for value in whole):
            whole, lost = [0] * len(whole), len(outcomes)
        return [len(outcomes), int(outcomes.count.sum()), lost, *(value or 0 for value in whole)]

    def check(self, sums: Sequence[int], most: float) -> None:
        """Raises ProtocolError for sums that at most `most` rows cannot have, such as a negative count."""
        rows, targets, bad, loss = sums[:_HEAD]
        counts, rest = [rows, targets, bad], sums[_HEAD:]
        cells = self.classes**2
        parts = [(rows, most), (bad, rows), (sum(rest[:cells]), targets), (sum(rest[cells:]), rows)]
        if not self.classes:
            parts, counts = [*parts[:2], (targets, rows)], [*counts, loss, rest[0], rest[2]]
        else:
            parts = [*parts, (targets, rows * (_LONGEST_ROW if self.task == "next-character" else 1))]
        least = -rows if self.classes else 0  # the log of a rounded probability may be a little above 0
        if min([*counts, *(rest if self.classes else ())]) < 0 or loss < least or any(a > b for a, b in parts):
            raise ProtocolError(f"the reply has sums of an evaluation that {counted(int(most), 'row')} cannot have")

    def values(self, sums: Sequence[int], extra: Sequence[str] = ()) -> dict[str, float]:
        """Returns the metrics of every evaluated round, and those named in `extra`; NaN, and `non_finite`, if there are
        rows with outputs that are not finite."""
        rows, targets, bad, loss = sums[:_HEAD]
        found = {"test_loss": _ratio(loss / _UNIT, targets)}
        found |= self._labelled(sums, targets) if self.classes else self._measured(sums, rows)
        quick = ("test_loss", *(("accuracy",) if self.classes else ("mae", "rmse", "r2")))
        quick = (*quick, "perplexity") if self.task == "next-character" else quick
        chosen = {name: found[name] for name in dict.fromkeys((*quick, *extra)) if name in found}
        return {**dict.fromkeys(chosen, math.nan), "non_finite": float(bad)} if bad else chosen

    def _counts(self, outcomes: ClassificationOutcomes) -> list[int | None]:
        confusion = confusion_matrix(outcomes.truth, outcomes.prediction, self.classes)
        found: list[int | None] = list(confusion.reshape(-1).tolist())
        if self._ranks and outcomes.log_probability is not None:
            scores = logit(outcomes.log_probability, self.positive)
            usable = np.isfinite(scores)
            bins = np.clip((scores[usable] + _WIDEST) * (BINS / (2 * _WIDEST)), 0, BINS - 1).astype(np.int64)
            hit = outcomes.truth[usable] == self.positive
            for flags in (hit, ~hit):
                found += np.bincount(bins[flags], minlength=BINS).tolist()
        return found

    def _moments(self, outcomes: RegressionOutcomes) -> list[int | None]:
        shift, scale = self.scale
        truth = (outcomes.truth - shift) / scale
        error = np.abs(outcomes.prediction - outcomes.truth) / scale
        return [_fixed(float(part.sum())) for part in (error[np.isfinite(error)], truth, truth**2)]

    def _labelled(self, sums: Sequence[int], targets: int) -> dict[str, float]:
        loss, last = _ratio(sums[3] / _UNIT, targets), _HEAD + self.classes**2
        confusion: IntArray = np.array(sums[_HEAD:last], np.int64).reshape(self.classes, self.classes)
        found = {
            "log_loss": loss,
            "accuracy": _ratio(float(confusion.trace()), targets),
            "balanced_accuracy": balanced_accuracy(confusion),
            "macro_f1": macro_f1(confusion),
        }
        if self.task == "next-character":
            return {**found, "perplexity": math.exp(min(loss, 709.0)), "bits_per_character": loss / math.log(2)}
        return found | (self._two_classes(confusion, np.array(sums[last:], np.float64)) if self._ranks else {})

    def _two_classes(self, confusion: IntArray, histogram: Any) -> dict[str, float]:
        own, other = self.positive, 1 - self.positive
        cells = (confusion[own, own], confusion[own, other], confusion[other, own], confusion[other, other])
        found = {name: float(value) for name, value in rates(*cells).items()}
        hit, missed = histogram[:BINS], histogram[BINS:]
        with np.errstate(invalid="ignore", divide="ignore"):
            below = np.cumsum(missed) - missed / 2  # a positive beats the negatives of lower bins, and half of its own
            area = float((hit * below).sum() / (hit.sum() * missed.sum()))
            distance = float(np.abs(np.cumsum(hit) / hit.sum() - np.cumsum(missed) / missed.sum()).max())
        return {**found, "auroc": area, "ks": distance}

    def _measured(self, sums: Sequence[int], rows: int) -> dict[str, float]:
        squares, absolute, total, squared = (value / _UNIT for value in sums[3:])
        spread = squared - _ratio(total**2, rows)
        scale = self.scale[1]
        return {
            "mae": _ratio(absolute, rows) * scale,
            "rmse": math.sqrt(_ratio(squares, rows)) * scale if rows else math.nan,
            "r2": 1 - squares / spread if spread > rows / _UNIT else math.nan,
        }


def _fixed(value: float) -> int | None:
    """Returns a sum in units of 2^-24; None if it is too large."""
    return round(value * _UNIT) if abs(value) < _LARGEST else None


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan

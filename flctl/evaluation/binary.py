"""Two classes: the positive one, the threshold on its probability, and the metrics of the resulting four counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.evaluation.ranking import logit
from flctl.types import PADDING, FloatArray

__all__ = ["RATES", "Decision", "cells", "decided", "probability_of", "rates"]

RATES = ("recall", "specificity", "precision", "npv", "f1")
"""Metrics of true and false positives and negatives."""
Outcomes = ClassificationOutcomes | RegressionOutcomes


@dataclass(frozen=True, slots=True)
class Decision:
    """Rule that predicts one of two classes: `positive`, its code, if its probability is at least `threshold`; None
    predicts the more probable class."""

    positive: int = 1
    threshold: float | None = None

    def codes(self, probability: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Returns the predicted codes [n] for probabilities [n] of the positive class.

        >>> Decision(positive=1, threshold=0.3).codes(np.array([0.2, 0.3])).tolist()
        [0, 1]
        """
        least = 0.5 if self.threshold is None else self.threshold
        return np.where(probability >= least, self.positive, 1 - self.positive)


def probability_of(outcomes: ClassificationOutcomes, positive: int) -> FloatArray:
    """Returns the probability [n] of the positive class; NaN where outputs are not finite.

    Raises ValueError if the outcomes do not have the scores of two classes.
    """
    if outcomes.log_probability is None or outcomes.log_probability.shape[1] != 2:
        raise ValueError("the outcomes do not have the scores of two classes")
    # Not exp of the log-probability: float32 has no digits left for it near 1.
    probability = 1 / (1 + np.exp(-logit(outcomes.log_probability, positive).clip(-700, 700)))
    return np.where(np.isnan(outcomes.loss), np.nan, probability)


def decided(outcomes: Outcomes, decision: Decision) -> Outcomes:
    """Returns the outcomes with the predictions of a decision with a threshold; unchanged without one."""
    if decision.threshold is None or not isinstance(outcomes, ClassificationOutcomes):
        return outcomes
    probability = probability_of(outcomes, decision.positive)
    finite = np.isfinite(probability)
    codes = np.where(finite, decision.codes(probability), PADDING).astype(np.int32)
    confidence = np.where(codes == decision.positive, probability, 1 - probability).astype(np.float32)
    correct = np.where(finite, codes == outcomes.truth, np.nan)
    return replace(outcomes, prediction=codes, confidence=confidence, correct=correct)


def cells(outcomes: ClassificationOutcomes, positive: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns for each row [n] which of `tp`, `fn`, `fp` and `tn` it is."""
    truth, guess = outcomes.truth == positive, outcomes.prediction == positive
    return {"tp": truth & guess, "fn": truth & ~guess, "fp": ~truth & guess, "tn": ~truth & ~guess}


def rates(tp: Any, fn: Any, fp: Any, tn: Any) -> dict[str, FloatArray]:
    """Returns `RATES` of counts, elementwise; NaN where a rate is not defined.

    >>> round(float(rates(tp=2, fn=56, fp=1, tn=441)["recall"]), 3)
    0.034
    """
    tp, fn, fp, tn = (np.asarray(count, np.float64) for count in (tp, fn, fp, tn))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }

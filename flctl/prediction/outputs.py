"""From a model's outputs to predictions: class probabilities, or numbers in the target's units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.preprocessing import FittedPreprocessing
from flctl.evaluation.binary import Decision

__all__ = ["UNKNOWN", "Predictions", "Summary", "predictions_of", "probabilities"]

UNKNOWN = -1
"""The code of a row whose outputs are not finite."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of classes: `codes` [n] (UNKNOWN if outputs are not finite) and `probability` [n, classes]; of a regression
    `values` [n] in the target's units, NaN if not finite."""

    codes: npt.NDArray[np.int64] | None = None
    probability: npt.NDArray[np.float64] | None = None
    values: npt.NDArray[np.float64] | None = None


def predictions_of(
    outputs: npt.NDArray[Any], fitted: FittedPreprocessing, decision: Decision | None = None
) -> Predictions:
    """Predictions of n rows: outputs are logits [n, classes], the logit of class 1 [n, 1] for binary tasks, or the
    standardised target [n, 1]. `decision` chooses between two classes; None: the more probable one."""
    if fitted.task == "regression":
        shift, scale = fitted.target_scale
        values = outputs.reshape(len(outputs)).astype(np.float64) * scale + shift
        return Predictions(values=np.where(np.isfinite(values), values, np.nan))
    logits = outputs.reshape(len(outputs), -1)
    if fitted.task == "binary":
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    codes, probability = probabilities(logits)
    if decision is not None:
        codes = np.where(codes == UNKNOWN, UNKNOWN, decision.codes(probability[:, decision.positive]))
    return Predictions(codes, probability)


def probabilities(logits: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(Most probable code [n], probabilities [n, classes]) by softmax in float64; NaN if logits are not finite."""
    z = logits.astype(np.float64)
    bad = ~np.isfinite(z).all(axis=1)
    z[bad] = 0.0
    codes = z.argmax(axis=1)
    # The largest logit is subtracted first, so that no finite one overflows.
    odds = np.exp(z - z.max(axis=1, keepdims=True))
    probability = odds / odds.sum(axis=1, keepdims=True)
    codes[bad], probability[bad] = UNKNOWN, np.nan
    return codes, probability


@dataclass(slots=True)
class Summary:
    """Counts predictions while they stream by. An accumulator: rows by class, or the numbers' moments."""

    fitted: FittedPreprocessing
    rows: int = 0
    not_finite: int = 0
    by_class: npt.NDArray[np.int64] = field(init=False)
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0

    def __post_init__(self) -> None:
        self.by_class = np.zeros(len(self.fitted.classes), np.int64)

    def add(self, found: Predictions) -> None:
        """Takes a block."""
        if found.codes is not None:
            known = found.codes[found.codes != UNKNOWN]
            self.by_class += np.bincount(known, minlength=len(self.by_class))
            self._count(len(found.codes), len(known))
        if found.values is not None:
            finite = found.values[np.isfinite(found.values)]
            self.rows, self.not_finite = (
                self.rows + len(found.values),
                self.not_finite + len(found.values) - len(finite),
            )
            self.total += float(finite.sum())
            self.low = min(self.low, float(finite.min(initial=np.inf)))
            self.high = max(self.high, float(finite.max(initial=-np.inf)))

    def _count(self, rows: int, finite: int) -> None:
        self.rows += rows
        self.not_finite += rows - finite

    @property
    def mean(self) -> float:
        """Mean of the finite predictions of a regression; NaN without any."""
        finite = self.rows - self.not_finite
        return self.total / finite if finite else float("nan")

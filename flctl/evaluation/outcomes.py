"""Outcomes of a model by row: losses, predictions and confidences, as plain vectors that concatenate over chunks.

Everything that `flctl.evaluation.metrics` scores, over all rows or per client, is a sum over these vectors. Logits are
turned into them batch by batch, so the logits of a whole test set (next character: [rows, window, characters])
never exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from flctl.types import PADDING, FloatArray, IntArray, TaskKind

__all__ = [
    "ClassificationOutcomes",
    "Outcomes",
    "RegressionOutcomes",
    "concatenate",
    "outcomes_of",
    "segment_sums",
    "taken",
]

CHUNK = 1 << 21
"""Logits that are widened to float64 at once: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Per row: `count` [n] int64 scored targets (1, or the unpadded characters of a window), and `loss` [n]
    float64, the task's loss summed over them; NaN where the model's outputs are not finite."""

    count: IntArray
    loss: FloatArray

    def __len__(self) -> int:
        return len(self.count)


@dataclass(frozen=True, slots=True)
class ClassificationOutcomes(Outcomes):
    """Classification, binary and next character. Losses are in nats.

    `correct` [n] float64 counts right targets (NaN: outputs not finite); `brier` [n] float64 sums
    sum_k (p_k - 1[y = k])^2, halved for two classes; `truth` and `prediction` [n] or [n, window] int32 codes, -1
    where padded or not finite; `confidence` likewise, float32, the probability of the prediction.
    `log_probability` [n, classes] float32 is kept on request only.
    """

    correct: FloatArray
    brier: FloatArray
    truth: npt.NDArray[np.int32]
    prediction: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    log_probability: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class RegressionOutcomes(Outcomes):
    """Regression. `truth` and `prediction` [n] float64 in original units; losses in standardised units."""

    truth: FloatArray
    prediction: FloatArray


Kind = TypeVar("Kind", bound=Outcomes)


def outcomes_of(
    kind: TaskKind,
    outputs: npt.NDArray[Any],
    y: npt.NDArray[Any],
    target_scale: tuple[float, float] = (0.0, 1.0),
    *,
    keep_scores: bool = False,
) -> ClassificationOutcomes | RegressionOutcomes:
    """The outcomes of one batch. `outputs` are logits [n, classes], [n, window, characters], or [n, 1] (binary:
    the logit of class 1; regression: the standardised target); `y` as the partition stores it.

    `target_scale` (shift, scale) leads regression back to original units: y * scale + shift.
    """
    if kind == "regression":
        return _measured(outputs.reshape(len(y)), y, target_scale)
    logits = outputs.reshape(len(y), 1) if kind == "binary" else outputs
    return _labelled(logits, y, keep_scores=keep_scores and kind != "next-character")


def concatenate(parts: Sequence[Kind]) -> Kind:
    """The outcomes of consecutive batches as one. Raises ValueError for no parts."""
    if not parts:
        raise ValueError("no outcomes to concatenate")
    first = parts[0]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(first)}
    return type(first)(**{name: _joined(column) for name, column in columns.items()})


def taken(outcomes: Kind, rows: IntArray) -> Kind:
    """Returns the outcomes of some rows."""
    columns = {field.name: getattr(outcomes, field.name) for field in fields(outcomes)}
    chosen: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
    return type(outcomes)(**chosen)


def _joined(column: Sequence[Any]) -> Any:
    return None if column[0] is None else np.concatenate(column)


def segment_sums(values: npt.NDArray[Any], offsets: IntArray) -> npt.NDArray[Any]:
    """The sum of values[offsets[i]:offsets[i+1]] for each i, [K] from offsets [K + 1]; an empty segment is 0.

    Segments must be adjacent and cover `values`. (`np.add.reduceat` alone repeats a value for an empty one.)
    """
    sums = np.zeros(len(offsets) - 1, values.dtype)
    filled = offsets[1:] > offsets[:-1]
    if filled.any():
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled])
    return sums


def _measured(outputs: npt.NDArray[Any], y: npt.NDArray[Any], target_scale: tuple[float, float]) -> RegressionOutcomes:
    shift, scale = target_scale
    predicted, target = outputs.astype(np.float64), y.astype(np.float64).reshape(len(y))
    finite = np.isfinite(predicted)
    predicted[~finite] = np.nan
    return RegressionOutcomes(
        count=np.ones(len(y), np.int64),
        loss=(predicted - target) ** 2,
        truth=target * scale + shift,
        prediction=predicted * scale + shift,
    )


def _labelled(logits: npt.NDArray[Any], y: npt.NDArray[Any], *, keep_scores: bool) -> ClassificationOutcomes:
    truth = y.astype(np.int32)
    scored = truth != PADDING
    count = scored.sum(axis=tuple(range(1, scored.ndim)), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(count)])
    parts = [_targets(z, t, keep_scores=keep_scores) for z, t in _chunks(logits[scored], truth[scored])]
    loss, correct, brier, prediction, confidence, scores = (_joined(column) for column in zip(*parts, strict=True))
    return ClassificationOutcomes(
        count=count,
        loss=segment_sums(loss, offsets),
        correct=segment_sums(correct, offsets),
        brier=segment_sums(brier, offsets),
        truth=truth,
        prediction=_spread(prediction, scored, np.int32(PADDING)),
        confidence=_spread(confidence, scored, np.float32(np.nan)),
        log_probability=scores,
    )


def _chunks(
    logits: npt.NDArray[Any], truth: npt.NDArray[np.int32]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int32]]]:
    step = max(1, CHUNK // logits.shape[1])
    for start in range(0, max(1, len(truth)), step):
        yield logits[start : start + step], truth[start : start + step]


def _spread(values: npt.NDArray[Any], scored: npt.NDArray[np.bool_], filler: Any) -> npt.NDArray[Any]:
    result = np.full(scored.shape, filler)
    result[scored] = values
    return result


def _targets(logits: npt.NDArray[Any], truth: npt.NDArray[np.int32], *, keep_scores: bool) -> tuple[Any, ...]:
    """Loss, correct, Brier, prediction, confidence and (kept) log-probabilities of each target.

    The softmax subtracts the largest logit first, so no finite logit overflows; a binary logit z is the
    softmax over (0, z).
    """
    z = logits.astype(np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    bad = ~np.isfinite(z).all(axis=1)
    z[bad] = 0.0
    prediction = z.argmax(axis=1).astype(np.int32)
    z -= z.max(axis=1, keepdims=True)
    odds = np.exp(z)
    total = odds.sum(axis=1)
    row = np.arange(len(truth))
    p_truth = odds[row, truth] / total
    loss = np.log(total) - z[row, truth]
    brier = np.einsum("ij,ij->i", odds, odds) / total**2 - 2 * p_truth + 1
    if z.shape[1] == 2:
        brier /= 2  # both classes say the same; (p_1 - y)^2 is what Brier scores of two classes usually mean
    correct = (prediction == truth).astype(np.float64)
    confidence = (1 / total).astype(np.float32)
    for values in (loss, brier, correct, confidence):
        values[bad] = np.nan
    prediction[bad] = PADDING
    scores = _narrow(z - np.log(total)[:, None]) if keep_scores else None
    return loss, correct, brier, prediction, confidence, scores


def _narrow(values: FloatArray) -> npt.NDArray[np.float32]:
    limits = np.finfo(np.float32)
    return values.clip(limits.min, limits.max).astype(np.float32)

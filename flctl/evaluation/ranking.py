"""Metrics of a ranking by score: AUROC, average precision and KS, of segments of rows or of weighted rows. Numpy only.

Rows of equal scores stand at one threshold: no order among ties can change a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.evaluation.outcomes import segment_sums
from flctl.types import FloatArray, IntArray

__all__ = ["Curve", "Ranking", "auroc", "average_precision", "curve", "ks", "logit"]

Scores = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Curve:
    """Counts at each threshold, from the highest score down: `thresholds` [m] are the distinct scores, `tp` and `fp`
    [m] the positives and negatives of that score or a higher one."""

    thresholds: FloatArray
    tp: FloatArray
    fp: FloatArray


def logit(log_probability: npt.NDArray[Any], positive: int = 1) -> FloatArray:
    """Returns the log-odds [n] of class `positive` from log-probabilities [n, 2]."""
    wide = log_probability.astype(np.float64)
    return np.asarray(wide[:, positive] - wide[:, 1 - positive])


def curve(scores: Scores, positive: Flags, weights: FloatArray | None = None) -> Curve:
    """Returns the counts at each distinct score of n rows, each counted `weights` [n] times.

    >>> curve(np.array([0.9, 0.4, 0.4]), np.array([True, True, False])).tp.tolist()
    [1.0, 2.0]
    """
    ranking = Ranking(scores, positive)
    tp, fp = ranking.counts(np.ones((1, len(scores))) if weights is None else weights[None])
    return Curve(np.asarray(scores[ranking.order][ranking.ends], np.float64), tp[0], fp[0])


class Ranking:
    """Rows sorted once by descending score, for the metrics of many weightings of them."""

    def __init__(self, scores: Scores, positive: Flags) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.ends = np.flatnonzero(np.concatenate([ranked[1:] != ranked[:-1], np.ones(min(1, len(ranked)), bool)]))
        self._positive = positive[self.order]

    def counts(self, weights: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Returns (true positives, false positives) at each distinct score, [c, m], for weights [c, n] of the rows."""
        ranked = weights[:, self.order]
        tp = np.cumsum(np.where(self._positive, ranked, 0), axis=1)[:, self.ends]
        return tp, np.cumsum(ranked, axis=1)[:, self.ends] - tp

    def areas(self, weights: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Returns (AUROC, average precision) [c] for weights [c, n]; NaN without positives (AUROC: or negatives)."""
        tp, fp = self.counts(weights)
        steps = np.diff(tp, axis=1, prepend=0)
        every = np.maximum(tp + fp, 1e-300)  # rows of weight 0 come first: their step is 0 as well
        positives, negatives = tp[:, -1:].sum(1), fp[:, -1:].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = (steps * (tp / every)).sum(1) / positives
            # A positive beats the negatives below its score, and half of those at it.
            above = (fp + np.concatenate([np.zeros_like(fp[:, :1]), fp[:, :-1]], axis=1)) / 2
            area = 1 - (steps * above).sum(1) / (positives * negatives)
        return np.asarray(area), np.asarray(precision)


def auroc(scores: Scores, positive: Flags, offsets: IntArray | None = None) -> FloatArray:
    """The area under the ROC curve of each segment, [K] from offsets [K + 1] (None: one segment).

    The Mann-Whitney form, (R - p (p + 1) / 2) / (p q), with R the sum of the positives' mid-ranks, p positives
    and q negatives (Hanley and McNeil 1982); NaN where one of the two is missing.
    """
    if offsets is None:
        offsets = np.array([0, len(scores)])
        owner, order = np.zeros(len(scores), np.int64), np.argsort(scores)
    else:
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.lexsort((scores, owner))
    positives = segment_sums(positive.astype(np.int64), offsets)
    negatives = np.diff(offsets) - positives
    ranks = _mid_ranks(scores[order], owner[order]) - offsets[owner]
    rank_sums = segment_sums(np.where(positive[order], ranks, 0.0), offsets)
    pairs = (positives * negatives).astype(np.float64)
    pairs[pairs == 0] = np.nan
    return np.asarray((rank_sums - positives * (positives + 1) / 2) / pairs)


def _mid_ranks(scores: Scores, owner: IntArray) -> FloatArray:
    """Ranks 1..n of scores sorted within owners; equal scores of one owner share the mean of their ranks."""
    if not len(scores):
        return np.zeros(0)
    starts = np.flatnonzero(np.concatenate([[True], (scores[1:] != scores[:-1]) | (owner[1:] != owner[:-1])]))
    sizes = np.diff(starts, append=len(scores))
    return np.repeat(starts + (sizes + 1) / 2, sizes)


def average_precision(scores: Scores, positive: Flags, offsets: IntArray | None = None) -> FloatArray:
    """The area under the precision-recall curve of each segment, [K] from offsets [K + 1] (None: one segment).

    Sum over thresholds of (recall - recall before) x precision, without interpolation, which would be too optimistic
    (Davis and Goadrich 2006); NaN without positives.
    """
    found = _Segments(scores, positive, offsets)
    gained = segment_sums(found.steps * (found.tp / np.maximum(found.tp + found.fp, 1)), found.offsets)
    return np.asarray(gained / np.where(found.positives > 0, found.positives, np.nan))


def ks(scores: Scores, positive: Flags, offsets: IntArray | None = None) -> FloatArray:
    """The Kolmogorov-Smirnov distance between the scores of positives and of negatives, [K]: the largest difference of
    true and false positive rate over thresholds; NaN where one of the two is missing."""
    found = _Segments(scores, positive, offsets)
    p, q = (np.where(total > 0, total, np.nan) for total in (found.positives, found.negatives))
    distance = np.abs(found.tp / p[found.owner] - found.fp / q[found.owner])
    result, filled = np.full(len(p), np.nan), np.diff(found.offsets) > 0
    if filled.any():
        result[filled] = np.maximum.reduceat(distance, found.offsets[:-1][filled])
    return result


class _Segments:
    """Cumulative counts `tp` and `fp` at each distinct score of each segment, and `steps`, the positives at it;
    `offsets` [K + 1] are of thresholds, and `owner` is each threshold's segment."""

    def __init__(self, scores: Scores, positive: Flags, offsets: IntArray | None) -> None:
        rows = np.array([0, len(scores)]) if offsets is None else offsets
        owner = np.repeat(np.arange(len(rows) - 1), np.diff(rows))
        order = np.lexsort((-scores, owner))
        ranked, mine, hit = scores[order], owner[order], positive[order].astype(np.int64)
        ends = np.flatnonzero(
            np.concatenate([(ranked[1:] != ranked[:-1]) | (mine[1:] != mine[:-1]), np.ones(min(1, len(ranked)), bool)])
        )
        self.positives = segment_sums(hit, rows)
        self.negatives = np.diff(rows) - self.positives
        self.owner = mine[ends]
        self.offsets = np.searchsorted(self.owner, np.arange(len(rows)))
        before = np.concatenate([[0], np.cumsum(self.positives)])[:-1]
        self.tp = np.cumsum(hit)[ends] - before[self.owner]
        self.fp = ends + 1 - rows[self.owner] - self.tp
        first = np.concatenate([np.ones(min(1, len(ends)), bool), self.owner[1:] != self.owner[:-1]])
        self.steps = np.where(first, self.tp, np.diff(self.tp, prepend=0))

"""ROC, precision-recall, calibration and residuals of models on the central test rows, each on axes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.evaluation import bootstrap
from flctl.evaluation.binary import probability_of
from flctl.evaluation.evaluate import Evaluated
from flctl.evaluation.intervals import wilson
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.evaluation.ranking import Ranking, logit
from flctl.report.figure import GREY, PALETTE, empty, style
from flctl.types import PADDING, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_pr", "draw_reliability", "draw_residuals", "draw_roc"]

GRID = np.linspace(0, 1, 101)
DRAWS, CELLS = 300, 3_000_000
"""Bootstrap draws of a band, and rows x draws beyond which there are fewer."""
FEWEST = 50
BANDS = 2
"""Models up to which bands are drawn."""
CLASSES = 10
"""Classes up to which each has a curve."""
BINS = 10
POINTS = 4000
Flags = npt.NDArray[np.bool_]
Along = Callable[[FloatArray, FloatArray], FloatArray]


def draw_roc(axes: Axes, models: list[Evaluated]) -> None:
    """True against false positive rate at every threshold; a cross at the one that is used."""
    axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, linestyle=":")
    _curves(axes, models, _roc_points, _tpr_at)
    for index, model in enumerate(models if _is_binary(models) else ()):
        found = model.evaluation.central.values
        axes.plot(1 - found["specificity"], found["recall"], "x", color=_colour(index), markersize=7, clip_on=False)
    style(axes, x="false positive rate (1 - specificity)", y="true positive rate (recall)", title="ROC")
    _unit_square(axes)


def draw_pr(axes: Axes, models: list[Evaluated]) -> None:
    """Precision against recall at every threshold; dotted the share of positives, which chance reaches."""
    for _, positive in _rankings(models[0]) if _is_binary(models) else ():
        axes.axhline(float(positive.mean()), color="#BBBBBB", linewidth=1, linestyle=":")
    _curves(axes, models, _pr_points, _precision_at)
    for index, model in enumerate(models if _is_binary(models) else ()):
        found = model.evaluation.central.values
        axes.plot(found["recall"], found["precision"], "x", color=_colour(index), markersize=7, clip_on=False)
    style(axes, x="recall", y="precision", title="Precision and recall")
    _unit_square(axes)


def draw_reliability(axes: Axes, models: list[Evaluated]) -> None:
    """Observed frequency against predicted probability in ten bins, with 95 % intervals (Wilson 1927)."""
    axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, linestyle=":")
    for index, model in enumerate(models):
        probability, hit = _predicted(model)
        bin_index = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
        count, hits, total = (np.bincount(bin_index, w, BINS) for w in (None, hit, probability))
        filled = count > 0
        n, x, rate = count[filled], total[filled] / count[filled], hits[filled] / count[filled]
        low, high = wilson(rate, n.astype(np.float64))
        bars = np.stack([rate - low, high - rate]).clip(0)
        axes.errorbar(x, rate, bars, color=_colour(index), marker="o", markersize=3, linewidth=1.6, elinewidth=1)
        if len(models) == 1:
            middle = (np.arange(BINS) + 0.5) / BINS
            axes.bar(middle, count / max(1, len(hit)), 1 / BINS, color="#000000", alpha=0.08, linewidth=0)
    of = "positive class" if _is_binary(models) else "prediction"
    shaded = " (grey: share of rows)" if len(models) == 1 else ""
    style(axes, x=f"predicted probability of the {of}", y="observed frequency", title=f"Calibration{shaded}")
    _unit_square(axes)


def draw_residuals(axes: Axes, models: list[Evaluated]) -> None:
    """Prediction minus truth against the prediction, with the middle 90 % (shaded) and the median of ten bins."""
    axes.axhline(0, color="#BBBBBB", linewidth=1, linestyle=":")
    for index, model in enumerate(models):
        outcomes = model.evaluation.central_outcomes
        if not isinstance(outcomes, RegressionOutcomes) or not len(outcomes):
            continue
        x, error = outcomes.prediction, outcomes.prediction - outcomes.truth
        kept = np.flatnonzero(np.isfinite(error))
        some = kept[:: max(1, len(kept) // POINTS)]
        alpha = float(np.clip(300 / max(1, len(some)), 0.08, 0.6))
        axes.scatter(x[some], error[some], s=9, color=_colour(index), alpha=alpha, linewidths=0, rasterized=True)
        _quantile_lines(axes, x[kept], error[kept], _colour(index))
    style(axes, x="prediction", y="prediction - truth", title="Residuals (shaded: middle 90 %)")


def _quantile_lines(axes: Axes, x: FloatArray, error: FloatArray, colour: str) -> None:
    if len(x) < 5 * BINS:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), BINS)
    middle = [float(np.median(x[part])) for part in parts]
    low, median, high = np.array([np.quantile(error[part], (0.05, 0.5, 0.95)) for part in parts]).T
    axes.plot(middle, median, color=colour, linewidth=1.8)
    axes.fill_between(middle, low, high, color=colour, alpha=0.12, linewidth=0)


# -- curves ----------------------------------------------------------------------------------------------------


def _curves(axes: Axes, models: list[Evaluated], points: Along, at_grid: Along) -> None:
    """Draws each model's curve with a band; of more than two classes each class's, of the first model."""
    drawn = False
    if _is_binary(models):
        for index, model in enumerate(models):
            for scores, positive in _rankings(model):
                _curve(axes, scores, positive, points, colour=_colour(index), label="_")
                if len(models) <= BANDS:
                    _band(axes, scores, positive, at_grid, _colour(index))
                drawn = True
    else:
        rankings = list(_rankings(models[0]))
        for index, (scores, positive) in enumerate(rankings if len(rankings) <= CLASSES else ()):
            _curve(axes, scores, positive, points, colour=_colour(index), label=str(models[0].classes[index]))
            drawn = True
        if drawn:
            axes.legend(fontsize=7, frameon=False, loc="best", ncols=2)
    if not drawn:
        empty(axes, "needs rows of both classes, and at most ten classes")


def _curve(axes: Axes, scores: FloatArray, positive: Flags, points: Along, *, colour: str, label: str) -> None:
    tp, fp = Ranking(scores, positive).counts(np.ones((1, len(scores))))
    x, y = points(tp[0], fp[0])
    axes.plot(x, y, color=colour, label=label, linewidth=1.8)


def _band(axes: Axes, scores: FloatArray, positive: Flags, at_grid: Along, colour: str) -> None:
    """Shades the middle 95 % of the curves of bootstrap draws, for each point of the grid."""
    count = min(DRAWS, CELLS // len(scores))
    if count < FEWEST:
        return
    ranking, lines = Ranking(scores, positive), []
    for draw in islice(bootstrap.draws(len(scores), 0), count):
        tp, fp = ranking.counts(draw[None].astype(np.float64))
        if tp[0, -1] and fp[0, -1]:
            lines.append(at_grid(tp[0], fp[0]))
    if lines:
        low, high = np.quantile(np.array(lines), (0.025, 0.975), axis=0)
        axes.fill_between(GRID, low, high, color=colour, alpha=0.12, linewidth=0)


def _roc_points(tp: FloatArray, fp: FloatArray) -> FloatArray:
    return np.stack([np.concatenate([[0], fp / fp[-1]]), np.concatenate([[0], tp / tp[-1]])])


def _tpr_at(tp: FloatArray, fp: FloatArray) -> FloatArray:
    x, y = _roc_points(tp, fp)
    return np.asarray(np.interp(GRID, x, y))


def _pr_points(tp: FloatArray, fp: FloatArray) -> FloatArray:
    kept = tp + fp > 0
    return np.stack([tp[kept] / tp[-1], tp[kept] / (tp + fp)[kept]])


def _precision_at(tp: FloatArray, fp: FloatArray) -> FloatArray:
    recall, precision = _pr_points(tp, fp)
    return np.asarray(precision[np.searchsorted(recall, GRID - 1e-12).clip(0, len(recall) - 1)])


def _rankings(model: Evaluated) -> Iterator[tuple[FloatArray, Flags]]:
    """Yields (scores, positive) of two classes, or of each class against the rest, if there are both kinds."""
    outcomes = model.evaluation.central_outcomes
    if not isinstance(outcomes, ClassificationOutcomes) or outcomes.log_probability is None:
        return
    logs = outcomes.log_probability
    if logs.shape[1] == 2:
        code = model.evaluation.decision.positive
        pairs = [(logit(logs, code), outcomes.truth == code)]
    else:
        pairs = [(logs[:, k].astype(np.float64), outcomes.truth == k) for k in range(logs.shape[1])]
    yield from (pair for pair in pairs if pair[1].any() and not pair[1].all())


def _predicted(model: Evaluated) -> tuple[FloatArray, npt.NDArray[Any]]:
    """(Probability, 1 if it came true) of the positive class of two, otherwise of each prediction."""
    outcomes = model.evaluation.central_outcomes
    if not isinstance(outcomes, ClassificationOutcomes):
        return np.zeros(0), np.zeros(0)
    if _is_binary([model]):
        code = model.evaluation.decision.positive
        probability, hit = probability_of(outcomes, code), outcomes.truth == code
    else:
        scored = outcomes.prediction != PADDING
        probability = outcomes.confidence[scored].astype(np.float64)
        hit = (outcomes.prediction == outcomes.truth)[scored]
    kept = np.isfinite(probability)
    return probability[kept], hit[kept].astype(np.float64)


def _is_binary(models: list[Evaluated]) -> bool:
    return all(
        isinstance(outcomes, ClassificationOutcomes)
        and outcomes.log_probability is not None
        and outcomes.log_probability.shape[1] == 2
        for outcomes in (model.evaluation.central_outcomes for model in models)
    )


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal", adjustable="box")
    axes.tick_params(colors=GREY)

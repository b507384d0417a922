"""Metrics of a model for each client's rows. Numpy only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flctl.evaluation.binary import cells, rates
from flctl.evaluation.metrics import r2
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes, segment_sums
from flctl.evaluation.ranking import auroc, average_precision, ks, logit
from flctl.types import FloatArray, IntArray

__all__ = ["client_scores"]


def client_scores(
    outcomes: ClassificationOutcomes | RegressionOutcomes, offsets: IntArray, positive: int = 1
) -> dict[str, FloatArray]:
    """Metric -> one value per client [K], for clients whose rows are offsets[k]:offsets[k + 1]; without a Python
    loop over clients. `targets` counts what each was scored on; a client without any has NaN. `positive` is the code of
    the positive one of two classes."""
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
    if outcomes.log_probability is not None and outcomes.log_probability.shape[1] == 2:
        result |= _client_binary(outcomes, offsets, positive, logit(outcomes.log_probability, positive))
    bad = np.isnan(result["test_loss"])
    return {name: np.where(bad & (name != "targets"), np.nan, values) for name, values in result.items()}


def _client_binary(
    outcomes: ClassificationOutcomes, offsets: IntArray, positive: int, scores: FloatArray
) -> dict[str, FloatArray]:
    truth = outcomes.truth == positive
    sums = {name: segment_sums(cell.astype(np.int64), offsets) for name, cell in cells(outcomes, positive).items()}
    ranked = {"auroc": auroc(scores, truth, offsets), "auprc": average_precision(scores, truth, offsets)}
    return rates(**sums) | ranked | {"ks": ks(scores, truth, offsets)}


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

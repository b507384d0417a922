"""Metrics of a ranking: by hand on ties, scikit-learn's elsewhere, segments and weights."""

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from flctl.evaluation.ranking import Ranking, average_precision, curve, ks

POSITIVE = np.array([True, False, True, False, False])
TIED = np.array([0.9, 0.5, 0.5, 0.5, 0.1])


def tied_scores(rows, seed=0):
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=rows), 1), rng.random(rows) < 0.3


def test_average_precision_of_ties_by_hand():
    # At 0.9: recall 1/2, precision 1. At 0.5 all three together: recall 1, precision 2/4.
    assert average_precision(TIED, POSITIVE)[0] == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_the_order_among_ties_changes_nothing():
    order = np.array([0, 3, 1, 2, 4])
    assert average_precision(TIED[order], POSITIVE[order]) == average_precision(TIED, POSITIVE)


def test_ks_by_hand():
    # At 0.9 1/2 of the positives and no negative; at 0.5 all positives and 2/3 of the negatives.
    assert ks(TIED, POSITIVE)[0] == pytest.approx(0.5)


def test_counts_of_a_curve_by_hand():
    found = curve(TIED, POSITIVE, np.array([1.0, 2.0, 1.0, 0.0, 3.0]))
    assert (found.thresholds.tolist(), found.tp.tolist(), found.fp.tolist()) == ([0.9, 0.5, 0.1], [1, 2, 2], [0, 2, 5])


def test_values_are_those_of_scikit_learn():
    scores, positive = tied_scores(300)
    assert average_precision(scores, positive)[0] == pytest.approx(sk.average_precision_score(positive, scores))
    fpr, tpr, _ = sk.roc_curve(positive, scores)
    assert ks(scores, positive)[0] == pytest.approx(np.abs(tpr - fpr).max())


def test_weights_count_rows_as_scikit_learn_does():
    scores, positive = tied_scores(200, seed=1)
    weights = np.random.default_rng(2).integers(0, 4, 200).astype(float)
    area, precision = Ranking(scores, positive).areas(weights[None])
    assert area[0] == pytest.approx(sk.roc_auc_score(positive, scores, sample_weight=weights))
    assert precision[0] == pytest.approx(sk.average_precision_score(positive, scores, sample_weight=weights))


@pytest.mark.parametrize("metric", [average_precision, ks])
def test_a_segment_has_the_value_that_it_has_alone(metric):
    scores, positive = tied_scores(60, seed=3)
    offsets = np.array([0, 0, 7, 7, 31, 60])
    alone = [metric(scores[a:b], positive[a:b])[0] for a, b in itertools.pairwise(offsets)]
    assert metric(scores, positive, offsets) == pytest.approx(np.array(alone), nan_ok=True)


def test_one_class_alone_has_no_value():
    scores = np.array([0.1, 0.2])
    assert math.isnan(average_precision(scores, np.zeros(2, bool))[0])
    assert math.isnan(ks(scores, np.ones(2, bool))[0])
    assert np.isnan(Ranking(scores, np.ones(2, bool)).areas(np.ones((1, 2)))[0][0])
    assert math.isnan(average_precision(np.zeros(0), np.zeros(0, bool))[0])

"""Bootstrap intervals: the width that theory gives, pairing, seeds, and what has none."""

import math

import numpy as np
import pytest

from flctl.evaluation import bootstrap
from flctl.evaluation.intervals import intervals, paired_intervals
from flctl.evaluation.outcomes import outcomes_of
from flctl.evaluation.ranking import auroc


def ranked(rows, shift, seed=0, rate=0.4):
    """A binary model whose scores of positives are `shift` standard deviations above those of negatives."""
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < rate).astype(np.int64)
    z = (rng.normal(size=rows) + shift * y).astype(np.float32)
    return outcomes_of("binary", z[:, None], y, keep_scores=True)


def half_width(interval):
    return (interval.high - interval.low) / 2


def test_the_auroc_interval_has_the_width_that_hanley_and_mcneil_give():
    one = ranked(600, 1.0)
    area = float(auroc(one.log_probability[:, 1] - one.log_probability[:, 0], one.truth == 1)[0])
    p, q = int((one.truth == 1).sum()), int((one.truth == 0).sum())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + (p - 1) * (q1 - area**2) + (q - 1) * (q2 - area**2)) / (p * q))
    found = intervals(one, 2)["auroc"]
    assert half_width(found) == pytest.approx(1.96 * error, rel=0.12)
    assert found.low < area < found.high


def test_the_f1_and_recall_intervals_have_the_width_of_their_variance():
    """Recall is a proportion of the positives: 1.96 sqrt(r (1 - r) / p)."""
    one = ranked(800, 1.0, seed=1)
    truth, guess = one.truth == 1, one.prediction == 1
    recall, p = (truth & guess).sum() / truth.sum(), truth.sum()
    found = intervals(one, 2)
    assert half_width(found["recall"]) == pytest.approx(1.96 * math.sqrt(recall * (1 - recall) / p), rel=0.12)
    f1 = 2 * (truth & guess).sum() / (truth.sum() + guess.sum())
    assert found["f1"].low < f1 < found["f1"].high


def test_blocks_leave_the_width_of_a_ranking(monkeypatch):
    one = ranked(1000, 1.0, seed=2)
    rows = half_width(intervals(one, 2)["auroc"])
    monkeypatch.setattr(bootstrap, "BLOCKS", 400)
    assert half_width(intervals(one, 2)["auroc"]) == pytest.approx(rows, rel=0.15)


def test_a_paired_difference_is_narrower_than_the_models_own_intervals():
    a = ranked(500, 1.0, seed=3)
    logits = (a.log_probability[:, 1] - a.log_probability[:, 0]).astype(np.float64)
    noise = np.random.default_rng(4).normal(scale=0.1, size=500)
    b = outcomes_of("binary", (logits + noise).astype(np.float32)[:, None], a.truth, keep_scores=True)
    paired, alone = paired_intervals(a, b, 2), intervals(a, 2)
    for name in ("auroc", "auprc", "f1"):
        assert half_width(paired[name]) < half_width(alone[name]) / 2
        assert paired[name].low < 0.01
        assert paired[name].high > -0.01


def test_equal_models_differ_by_exactly_zero():
    a = ranked(80, 0.5)
    assert {(i.low, i.high) for i in paired_intervals(a, a, 2).values()} == {(0.0, 0.0)}


def test_the_seed_decides_the_draws():
    a = ranked(100, 0.5)
    assert intervals(a, 2, seed=1) == intervals(a, 2, seed=1) != intervals(a, 2, seed=2)


def test_r2_of_a_shifted_target_has_the_same_interval():
    """Far from zero, a variance taken as a difference of sums of squares would be noise."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    guess = y + rng.normal(scale=0.5, size=200)
    near, far = (outcomes_of("regression", guess[:, None], y, (shift, 1.0)) for shift in (0.0, 1e8))
    found = intervals(near, 0)["r2"]
    assert found.low < 1 - ((guess - y) ** 2).sum() / ((y - y.mean()) ** 2).sum() < found.high
    assert intervals(far, 0)["r2"].low == pytest.approx(found.low, abs=1e-5)


def test_rows_of_one_class_have_no_interval_of_a_ranking():
    one = outcomes_of("binary", np.linspace(-1, 1, 20, dtype=np.float32)[:, None], np.zeros(20, int), keep_scores=True)
    assert not {"auroc", "auprc", "recall"} & set(intervals(one, 2))
    assert "accuracy" in intervals(one, 2)


def test_outputs_that_are_not_finite_have_no_interval():
    z = np.array([[0.0], [np.nan], [1.0]], np.float32)
    assert intervals(outcomes_of("binary", z, np.array([0, 1, 1]), keep_scores=True), 2) == {}


def test_more_classes_have_macro_metrics():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 150)
    z = (rng.normal(size=(150, 3)) + np.eye(3)[y]).astype(np.float32)
    found = intervals(outcomes_of("classification", z, y, keep_scores=True), 3)
    assert {"auroc", "auprc", "macro_f1", "balanced_accuracy"} <= set(found)
    assert "f1" not in found

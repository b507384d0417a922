"""Differences of two models on the same rows: exact values, honest intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from flctl.evaluation.bootstrap import BLOCKS
from flctl.evaluation.metrics import score
from flctl.evaluation.outcomes import outcomes_of
from flctl.report.comparison import client_difference, differences, mcnemar


def right_or_wrong(pattern):
    """A model with two classes that is right where `pattern` says so; the truth is always class 0."""
    outputs = np.where(np.asarray(pattern, bool)[:, None], [1.0, 0.0], [0.0, 1.0]).astype(np.float32)
    return outcomes_of("classification", outputs, np.zeros(len(outputs), np.int64))


def scored(outcomes):
    return score(outcomes, "ab" if hasattr(outcomes, "correct") else ""), outcomes


def test_equal_models_do_not_differ():
    one = right_or_wrong([1, 0, 1, 1])
    found = differences(scored(one), scored(one))
    change = found["accuracy"]
    assert (change.value, change.low, change.high, change.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_difference_is_second_minus_first():
    found = differences(scored(right_or_wrong([1, 0, 0, 0])), scored(right_or_wrong([1, 1, 1, 0])))
    assert found["accuracy"].value == 0.5
    assert found["log_loss"].value < 0
    assert found["accuracy"].low <= 0.5 <= found["accuracy"].high


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 5), (12, 2), (40, 41), (300, 220)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    a = right_or_wrong([1] * 7 + [1] * only_a + [0] * only_b)
    b = right_or_wrong([1] * 7 + [0] * only_a + [1] * only_b)
    total = only_a + only_b
    expected = stats.binomtest(only_a, total).pvalue if total else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [400, 3 * BLOCKS + 17])
def test_the_paired_interval_has_the_width_that_theory_gives(rows):
    """For a mean of paired differences: 1.96 standard errors to each side, in blocks too."""
    rng = np.random.default_rng(1)
    a, b = right_or_wrong(rng.random(rows) < 0.8), right_or_wrong(rng.random(rows) < 0.85)
    change = differences(scored(a), scored(b))["accuracy"]
    error = (b.correct - a.correct).std() / math.sqrt(rows)
    assert change.value == pytest.approx((b.correct - a.correct).mean())
    assert (change.high - change.low) / 2 == pytest.approx(1.96 * error, rel=0.12)
    assert (change.high + change.low) / 2 == pytest.approx(change.value, abs=0.2 * error)


def test_pairing_makes_the_interval_narrower_than_independent_samples_would():
    rng = np.random.default_rng(2)
    hard = rng.random(1000) < 0.3
    a = right_or_wrong(~hard)
    b = right_or_wrong(~hard | (rng.random(1000) < 0.02))
    change = differences(scored(a), scored(b))["accuracy"]
    independent = 2 * 1.96 * math.sqrt((a.correct.var() + b.correct.var()) / 1000)
    assert change.high - change.low < independent / 3


def test_rmse_gets_its_interval_in_original_units():
    y = np.zeros(500, np.float32)
    rng = np.random.default_rng(3)
    a = outcomes_of("regression", rng.normal(0, 2, (500, 1)).astype(np.float32), y, (0.0, 10.0))
    b = outcomes_of("regression", rng.normal(0, 1, (500, 1)).astype(np.float32), y, (0.0, 10.0))
    change = differences(scored(a), scored(b))["rmse"]
    assert change.value == pytest.approx(-10, abs=2)
    assert change.low < change.value < change.high < 0
    assert change.p is None


def test_equal_calls_draw_equal_intervals():
    a, b = right_or_wrong([1, 0] * 30), right_or_wrong([1, 1, 0] * 20)
    first, again, other = (differences(scored(a), scored(b), seed=seed)["macro_f1"] for seed in (4, 4, 5))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_outputs_that_are_not_finite_leave_no_interval():
    good = right_or_wrong([1, 0])
    bad = outcomes_of("classification", np.full((2, 2), np.nan, np.float32), np.zeros(2, np.int64))
    change = differences(scored(good), scored(bad))["accuracy"]
    assert math.isnan(change.value)
    assert change.low is None


def test_models_scored_on_other_rows_are_refused():
    with pytest.raises(ValueError, match="not evaluated on the same rows"):
        differences(scored(right_or_wrong([1, 0])), scored(right_or_wrong([1, 0, 1])))


def test_clients_are_drawn_and_each_counts_once():
    first, second = np.array([0.5, 0.5, math.nan, 0.7]), np.array([0.6, 0.7, 0.9, 0.7])
    change = client_difference(first, second)
    assert change.value == pytest.approx(0.1)
    assert 0 <= change.low <= 0.1 <= change.high <= 0.2
    assert math.isnan(client_difference(np.array([math.nan]), np.array([1.0])).value)
    assert client_difference(np.array([1.0]), np.array([2.0])).low is None

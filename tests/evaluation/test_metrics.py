"""Metrics: numbers that a person can check, scikit-learn's where it has them, and degenerate data."""

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from flctl.errors import ConfigError
from flctl.evaluation.client_metrics import client_scores
from flctl.evaluation.metrics import calibration_error, quick_score, score
from flctl.evaluation.outcomes import CHUNK, concatenate, outcomes_of, segment_sums
from flctl.evaluation.ranking import auroc
from flctl.metrics import METRICS, headline, higher_is_better

LN2 = math.log(2)
relaxed = settings(deadline=None, max_examples=60)


def logits_of(probabilities):
    return np.log(np.asarray(probabilities, np.float64)).astype(np.float32)


def scores_of(kind, outputs, y, classes=(), scale=(0.0, 1.0)):
    outputs, y = np.asarray(outputs, np.float32), np.asarray(y)
    return score(outcomes_of(kind, outputs, y, scale, keep_scores=True), classes)


# -- by hand -----------------------------------------------------------------------------------------------


def test_classification_by_hand():
    # Truth a a b c; predicted a b b b. Recall 1/2, 1, 0; F1 2/3, 1/2 (tp 1, fp 2), 0.
    probabilities = [[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]]
    result = scores_of("classification", logits_of(probabilities), [0, 0, 1, 2], "abc")
    values = result.values
    assert values["accuracy"] == 0.5
    assert values["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert values["log_loss"] == pytest.approx(-np.log([0.7, 0.2, 0.8, 0.3]).mean(), rel=1e-6)
    assert values["brier"] == pytest.approx(np.mean([0.14, 0.64 + 0.36 + 0.04, 0.06, 0.04 + 0.25 + 0.49]), rel=1e-6)
    # Four confidences in four bins of their own: .7 right, .6 wrong, .8 right, .5 wrong.
    assert values["calibration_error"] == pytest.approx((0.3 + 0.6 + 0.2 + 0.5) / 4, rel=1e-6)
    # a: .7, .2 over .1, .2 -> (1 + 1 + 1 + .5) / 4; b: .8 over .2, .6, .5 -> 1; c: .3 over all -> 1.
    assert values["auroc"] == pytest.approx((3.5 / 4 + 1 + 1) / 3)
    assert result.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert (result.rows, result.targets, result.non_finite, dict(result.notes)) == (4, 4, 0, {})


def test_binary_by_hand():
    result = scores_of("binary", [[0.0], [math.log(3)], [-math.log(3)], [math.log(3)]], [0, 1, 0, 0], "ny")
    values = result.values
    # p(yes) = .5 .75 .25 .75; predicted n y n y.
    assert values["accuracy"] == 0.75
    assert values["log_loss"] == pytest.approx(-np.log([0.5, 0.75, 0.75, 0.25]).mean(), rel=1e-6)
    assert values["brier"] == pytest.approx((0.25 + 0.0625 + 0.0625 + 0.5625) / 4, rel=1e-6)
    # One positive at .75 against .5, .25 (above) and .75 (tie).
    assert values["auroc"] == pytest.approx(2.5 / 3)
    assert result.confusion.tolist() == [[2, 1], [0, 1]]


def test_regression_is_scored_in_original_units():
    # Standardised by (y - 10) / 2: truth 10 12 14, predicted 10 14 12.
    result = scores_of("regression", [[0.0], [2.0], [1.0]], np.array([0, 1, 2], np.float32), scale=(10.0, 2.0))
    assert result.values == {
        "test_loss": pytest.approx(2 / 3),
        "mae": pytest.approx(4 / 3),
        "rmse": pytest.approx(math.sqrt(8 / 3)),
        "r2": pytest.approx(1 - 8 / 8),
    }
    assert result.confusion is None


def test_next_character_counts_unpadded_positions_only():
    uniform = [math.log(0.5), math.log(0.5)]
    sure = [math.log(0.75), math.log(0.25)]
    outputs = np.array([[sure, sure, uniform], [sure, [np.nan, np.nan], [np.nan, np.nan]]], np.float32)
    result = scores_of("next-character", outputs, [[0, 1, 0], [0, -1, -1]], "xy")
    loss = -(2 * math.log(0.75) + math.log(0.25) + math.log(0.5)) / 4
    assert (result.rows, result.targets, result.non_finite) == (2, 4, 0)
    assert result.values["accuracy"] == 0.75
    assert result.values["log_loss"] == pytest.approx(loss, rel=1e-6)
    assert result.values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert result.values["bits_per_character"] == pytest.approx(loss / LN2, rel=1e-6)
    assert result.confusion.sum() == 4
    assert "auroc" not in result.values
    assert dict(result.notes) == {}


def test_notes_are_only_about_metrics_that_the_task_has():
    result = scores_of("next-character", np.zeros((1, 2, 3)), [[0, 1]], "xyz")
    assert set(result.notes) == {"balanced_accuracy"}


def test_calibration_bins_are_closed_on_the_right():
    # Confidence 1 right once, wrong once (last bin: |1 - 2| = 1), and 10/15 right (bin 10: |1 - 10/15|).
    bins = np.zeros((15, 3))
    bins[14], bins[9] = (2, 2.0, 1), (1, 10 / 15, 1)
    assert calibration_error(bins) == pytest.approx((1 + 5 / 15) / 3)
    certain = np.array([[100.0, 0.0], [100.0, 0.0]], np.float32)
    assert scores_of("classification", certain, [0, 1], "ab").values["calibration_error"] == 0.5


def test_loss_of_extreme_logits_is_exact_and_finite():
    outputs = np.array([[3e38, -3e38], [0.0, 1000.0]], np.float32)
    result = scores_of("classification", outputs, [0, 0], "ab")
    assert result.values["log_loss"] == 500.0
    assert result.non_finite == 0


def test_confident_binary_logits_still_rank():
    # Sigmoids of 50 and 60 are both 1 in float64; their order is not lost.
    assert scores_of("binary", [[60.0], [50.0]], [1, 0], "ny").values["auroc"] == 1.0


# -- scikit-learn ------------------------------------------------------------------------------------------

labelled = st.integers(2, 6).flatmap(
    lambda classes: st.integers(1, 40).flatmap(
        lambda rows: st.tuples(
            hnp.arrays(np.float32, (rows, classes), elements=st.integers(-24, 24).map(lambda v: v / 4)),
            hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)),
        )
    )
)


@relaxed
@given(labelled)
def test_classification_equals_scikit_learn(case):
    outputs, y = case
    classes = outputs.shape[1]
    values = scores_of("classification", outputs, y, [str(c) for c in range(classes)]).values
    p = np.exp(outputs.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    guess = outputs.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert values["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
        assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
        assert values["macro_f1"] == pytest.approx(sk.f1_score(y, guess, average="macro", zero_division=0))
        assert values["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(classes)), rel=1e-6, abs=1e-9)
    if classes == 2:
        assert values["brier"] == pytest.approx(sk.brier_score_loss(y, p[:, 1], pos_label=1), abs=1e-9)


@relaxed
@given(labelled)
def test_macro_auroc_equals_scikit_learn_where_every_class_has_rows(case):
    outputs, y = case
    classes = outputs.shape[1]
    outcomes = outcomes_of("classification", outputs, y, keep_scores=True)
    value = score(outcomes, [str(c) for c in range(classes)]).values["auroc"]
    if len(np.unique(y)) < 2:
        assert math.isnan(value)
    elif len(np.unique(y)) == classes:
        kept = outcomes.log_probability.astype(np.float64)
        areas = [sk.roc_auc_score(y == k, kept[:, k]) for k in range(classes)]
        expected = sk.roc_auc_score(y, kept[:, 1] - kept[:, 0]) if classes == 2 else np.mean(areas)
        assert value == pytest.approx(expected)


@relaxed
@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.integers(-5, 5).map(float)),
    st.integers(0, 2**32 - 1),
)
def test_auroc_with_ties_equals_scikit_learn(scores, seed):
    positive = np.random.default_rng(seed).random(len(scores)) < 0.5
    positive[:2] = [True, False]
    assert auroc(scores, positive)[0] == pytest.approx(sk.roc_auc_score(positive, scores))


@relaxed
@given(
    hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-50, 50, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_regression_equals_scikit_learn(outputs, seed):
    y = np.random.default_rng(seed).normal(size=len(outputs)).astype(np.float32)
    values = scores_of("regression", outputs[:, None], y, scale=(7.0, 3.0)).values
    truth, guess = y.astype(np.float64) * 3 + 7, outputs.astype(np.float64) * 3 + 7
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess))
    assert values["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(truth, guess)))
    assert values["r2"] == pytest.approx(sk.r2_score(truth, guess))


# -- clients -----------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(0, 7), min_size=1, max_size=12)


def same(values, expected):
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@relaxed
@given(sizes, st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_client_scores_equal_a_loop_over_clients(rows, classes, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    outputs = (rng.integers(-8, 8, (offsets[-1], classes)) / 2).astype(np.float32)
    y = rng.integers(0, classes, offsets[-1])
    found = client_scores(outcomes_of("classification", outputs, y, keep_scores=True), offsets)
    assert set(found) - {"targets"} <= set(METRICS)
    for k in range(len(rows)):
        part = slice(offsets[k], offsets[k + 1])
        alone = scores_of("classification", outputs[part], y[part], [str(c) for c in range(classes)])
        assert found["targets"][k] == alone.targets
        for name in set(found) - {"targets"}:
            same(found[name][k], alone.values[name])


@relaxed
@given(sizes, st.integers(0, 2**32 - 1))
def test_client_scores_of_binary_and_regression_equal_a_loop(rows, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    outputs = rng.integers(-3, 4, (offsets[-1], 1)).astype(np.float32)
    for kind, y in (
        ("binary", rng.integers(0, 2, offsets[-1])),
        ("regression", rng.integers(0, 3, offsets[-1]).astype(np.float32)),
    ):
        found = client_scores(outcomes_of(kind, outputs, y, (5.0, 2.0), keep_scores=True), offsets)
        assert {"auroc"} <= set(found) or {"mae", "rmse", "r2"} <= set(found)
        for k in range(len(rows)):
            part = slice(offsets[k], offsets[k + 1])
            alone = scores_of(kind, outputs[part], y[part], "ny" if kind == "binary" else (), (5.0, 2.0))
            for name in set(found) - {"targets"}:
                same(found[name][k], alone.values[name])


def test_client_scores_of_text_weigh_by_characters():
    outputs = np.zeros((3, 2, 2), np.float32)
    outputs[..., 0] = math.log(3)  # always "x", with p = 3/4
    y = np.array([[0, 0], [1, -1], [-1, -1]])
    found = client_scores(outcomes_of("next-character", outputs, y), np.array([0, 2, 2, 3]))
    assert found["targets"].tolist() == [3, 0, 0]
    same(found["accuracy"], [2 / 3, np.nan, np.nan])
    loss = -(2 * math.log(0.75) + math.log(0.25)) / 3
    np.testing.assert_allclose(found["perplexity"][0], math.exp(loss), rtol=1e-6)


def test_the_federated_weighted_mean_is_the_pooled_value():
    rng = np.random.default_rng(0)
    outcomes = outcomes_of("classification", rng.normal(size=(90, 3)).astype(np.float32), rng.integers(0, 3, 90))
    found = client_scores(outcomes, np.array([0, 10, 10, 45, 90]))
    for name in ("accuracy", "log_loss"):
        kept = found["targets"] > 0
        mean = np.average(found[name][kept], weights=found["targets"][kept])
        assert mean == pytest.approx(score(outcomes, "abc").values[name])


@relaxed
@given(sizes, st.integers(0, 99))
def test_segment_sums_equal_a_loop(rows, seed):
    offsets = np.concatenate([[0], np.cumsum(rows)])
    values = np.random.default_rng(seed).normal(size=offsets[-1])
    expected = [values[a:b].sum() for a, b in itertools.pairwise(offsets)]
    np.testing.assert_allclose(segment_sums(values, offsets), expected, atol=1e-12)


# -- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "binary", "regression", "next-character"])
def test_batches_concatenate_to_the_whole(kind):
    rng = np.random.default_rng(3)
    shape = {"classification": (31, 4), "next-character": (31, 5, 4)}.get(kind, (31, 1))
    outputs = rng.normal(size=shape).astype(np.float32)
    y = rng.integers(0, 2, 31) if kind == "binary" else rng.integers(-1, 4, shape[:-1])
    y = rng.normal(size=31).astype(np.float32) if kind == "regression" else np.maximum(y, 0 if y.ndim == 1 else -1)
    whole = outcomes_of(kind, outputs, y, keep_scores=True)
    parts = [outcomes_of(kind, outputs[i : i + 8], y[i : i + 8], keep_scores=True) for i in range(0, 31, 8)]
    assert quick_score(concatenate(parts)) == quick_score(whole)
    classes = {"regression": "", "binary": "ny"}.get(kind, "abcd")
    assert score(concatenate(parts), classes).values == score(whole, classes).values


def test_large_batches_are_widened_in_pieces_without_a_seam():
    rows = CHUNK // 50 + 3
    outputs = np.zeros((rows, 50), np.float32)
    outputs[:, 0] = np.arange(rows) % 7
    outcomes = outcomes_of("classification", outputs, np.arange(rows) % 50)
    z = np.arange(rows) % 7
    own = np.where(np.arange(rows) % 50 == 0, z, 0)
    np.testing.assert_allclose(outcomes.loss, np.log(np.exp(z) + 49) - own, rtol=1e-12)


# -- degenerate --------------------------------------------------------------------------------------------


def test_one_class_in_the_test_rows_leaves_auroc_undefined_with_a_reason():
    for kind, outputs, classes in (("binary", [[1.0], [2.0]], "ny"), ("classification", np.eye(2, 3), "abc")):
        result = scores_of(kind, outputs, [0, 0], classes)
        assert math.isnan(result.values["auroc"])
        assert "one class" in result.notes["auroc"]
        undefined = {name for name, value in result.values.items() if not math.isfinite(value)}
        assert "auroc" in undefined <= result.notes.keys()


def test_a_class_without_rows_is_named():
    result = scores_of("classification", np.eye(3), [0, 1, 1], ["cat", "dog", "emu"])
    assert result.values["auroc"] == pytest.approx((1 + 0.75) / 2)
    assert result.notes["auroc"].endswith("without: emu")
    assert "emu" in result.notes["balanced_accuracy"]


def test_constant_target_leaves_r2_undefined():
    result = scores_of("regression", [[1.0], [0.0]], np.array([0.1, 0.1], np.float32), scale=(1e6, 3.0))
    assert math.isnan(result.values["r2"])
    assert "constant" in result.notes["r2"]
    assert result.values["mae"] == pytest.approx(3 * 0.5, rel=1e-6)


def test_one_row():
    assert scores_of("classification", [[0.0, 1.0]], [1], "ab").values["accuracy"] == 1.0
    assert scores_of("regression", [[1.0]], np.zeros(1, np.float32)).values["rmse"] == 1.0


@pytest.mark.parametrize(
    ("kind", "shape", "y", "classes"),
    [
        ("classification", (0, 3), np.zeros(0, np.int64), "abc"),
        ("binary", (0, 1), np.zeros(0, np.int64), "ny"),
        ("regression", (0, 1), np.zeros(0, np.float32), ""),
        ("next-character", (0, 5, 3), np.zeros((0, 5), np.int64), "abc"),
        ("next-character", (2, 5, 3), np.full((2, 5), -1), "abc"),
    ],
)
def test_no_targets_make_every_metric_nan_and_say_so(kind, shape, y, classes):
    result = scores_of(kind, np.zeros(shape), y, classes)
    assert all(math.isnan(value) for value in result.values.values())
    assert result.notes["test_loss"] == "there are no test rows"
    assert math.isnan(quick_score(outcomes_of(kind, np.zeros(shape, np.float32), y))["test_loss"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_outputs_that_are_not_finite_make_nan_and_a_count(kind, bad):
    outputs = np.zeros((4, 3 if kind == "classification" else 1), np.float32)
    outputs[1, 0] = bad
    y = np.array([0, 0, 1, 1], np.float32 if kind == "regression" else np.int64)
    classes = {"classification": "abc", "binary": "ny"}.get(kind, "")
    result = scores_of(kind, outputs, y, classes)
    assert result.non_finite == 1
    assert all(math.isnan(value) for value in result.values.values())
    assert result.notes["test_loss"] == "1 of 4 rows with outputs that are not finite"
    quick = quick_score(outcomes_of(kind, outputs, y))
    assert quick["non_finite"] == 1.0
    assert math.isnan(quick["test_loss"])
    found = client_scores(outcomes_of(kind, outputs, y, keep_scores=True), np.array([0, 2, 4]))
    one_class = {
        "precision",
        "specificity",
        "ks",
    }  # the second client's rows are of one class, and none is predicted so
    for name in set(found) - {"targets", "auroc", "r2"}:
        assert math.isnan(found[name][0])
        assert name in one_class or math.isfinite(found[name][1])


def test_names_and_directions():
    assert headline("regression").metric == "rmse"
    assert headline("binary").metric == headline("next-character").metric == "accuracy"
    assert higher_is_better("auroc")
    assert not higher_is_better("perplexity")
    with pytest.raises(ConfigError, match="unknown metric 'acuracy'") as caught:
        higher_is_better("acuracy")
    assert caught.value.hint == "Did you mean 'accuracy'?"


def test_every_metric_is_documented():
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in text] == []

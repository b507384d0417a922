"""Metrics of two classes: by hand, scikit-learn's, at a threshold, one class alone, the metric that stands first."""

import itertools
import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from flctl.cli.output import envelope
from flctl.errors import ConfigError
from flctl.evaluation.binary import Decision, cells, decided, probability_of, rates
from flctl.evaluation.client_metrics import client_scores
from flctl.evaluation.metrics import class_report, score
from flctl.evaluation.outcomes import outcomes_of
from flctl.metrics import METRICS, headline, metrics_of, positive_code

RATES = ("recall", "specificity", "precision", "npv", "f1")


def binary(probabilities, y):
    """A model of one logit with these probabilities of class 1."""
    p = np.asarray(probabilities, np.float64)
    return outcomes_of("binary", np.log(p / (1 - p)).astype(np.float32)[:, None], np.asarray(y), keep_scores=True)


def random_model(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < 0.3).astype(np.int64)
    return binary(np.clip(np.round(rng.random(rows) * 0.6 + 0.3 * y, 2), 0.01, 0.99), y), y


def test_rates_by_hand():
    """Three positives, of which 0.9 and 0.6 are found; of five negatives 0.7 is taken for one."""
    one = binary([0.9, 0.6, 0.2, 0.7, 0.1, 0.1, 0.3, 0.4], [1, 1, 1, 0, 0, 0, 0, 0])
    found = score(one, ("no", "yes")).values
    assert [found[name] for name in RATES] == pytest.approx([2 / 3, 4 / 5, 2 / 3, 4 / 5, 2 / 3])
    assert found["ks"] == pytest.approx(2 / 3 - 1 / 5)
    # Precision 1 at 0.9, 2/3 at 0.6 (third in order), 3/6 at 0.2; each gains a third of the recall.
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


def test_the_other_class_as_positive_mirrors_the_rates():
    one, y = random_model()
    second, first = (score(one, ("a", "b"), positive=code).values for code in (1, 0))
    assert (first["recall"], first["precision"]) == (second["specificity"], second["npv"])
    assert first["auroc"] == pytest.approx(second["auroc"])
    probability = probability_of(one, 0)
    assert first["auprc"] == pytest.approx(sk.average_precision_score(y == 0, probability))


def test_rates_are_those_of_scikit_learn():
    one, y = random_model(seed=1)
    found, guess = score(one, ("a", "b")).values, one.prediction
    assert found["recall"] == pytest.approx(sk.recall_score(y, guess))
    assert found["specificity"] == pytest.approx(sk.recall_score(y, guess, pos_label=0))
    assert found["precision"] == pytest.approx(sk.precision_score(y, guess))
    assert found["npv"] == pytest.approx(sk.precision_score(y, guess, pos_label=0))
    assert found["f1"] == pytest.approx(sk.f1_score(y, guess))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(y, probability_of(one, 1)))


@pytest.mark.parametrize("positive", [0, 1])
def test_a_threshold_decides_predictions_and_nothing_else(positive):
    one, _ = random_model(seed=2)
    moved = decided(one, Decision(positive, 0.2))
    assert ((probability_of(one, positive) >= 0.2) == (moved.prediction == positive)).all()
    before, after = (score(outcomes, ("a", "b"), positive).values for outcomes in (one, moved))
    assert after["recall"] > before["recall"]
    assert after["accuracy"] == pytest.approx((moved.prediction == moved.truth).mean())
    for name in ("log_loss", "auroc", "auprc", "ks", "brier"):
        assert after[name] == before[name]


def test_two_logits_are_two_classes_as_well():
    one, y = random_model(seed=3)
    logits = np.stack([np.zeros(len(y)), np.log(probability_of(one, 1) / probability_of(one, 0))], axis=1)
    two = outcomes_of("classification", logits.astype(np.float32), y, keep_scores=True)
    first, second = score(one, ("a", "b")).values, score(two, ("a", "b")).values
    assert {name: second[name] for name in RATES} == {name: first[name] for name in RATES}


def test_each_client_has_the_metrics_of_its_rows_alone():
    one, y = random_model(120, seed=4)
    offsets = np.array([0, 1, 1, 50, 120])
    found = client_scores(one, offsets, positive=0)
    for k, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = score(binary(probability_of(one, 1)[start:stop], y[start:stop]), ("a", "b"), 0).values
        for name in (*RATES, "auprc", "ks"):
            np.testing.assert_allclose(found[name][k], alone[name], rtol=1e-6, equal_nan=True)


def test_one_class_alone_is_null_with_a_reason_in_json():
    scores = score(binary([0.2, 0.3], [0, 0]), ("no", "yes"))
    assert scores.notes["recall"] == "undefined: no test row is positive"
    assert scores.notes["precision"] == "undefined: no row is predicted positive"
    assert {"auroc", "auprc", "ks", "f1"} <= scores.notes.keys()
    text = envelope("eval", data=scores.values)
    assert json.loads(text)["data"]["recall"] is None
    assert json.loads(text)["data"]["specificity"] == 1.0


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("classification", 2), ("classification", 4)])
def test_every_metric_that_a_task_is_said_to_have_is_measured(kind, classes):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(30, 1 if kind == "binary" else classes)).astype(np.float32)
    outcomes = outcomes_of(kind, outputs, rng.integers(0, classes, 30), keep_scores=True)
    assert set(score(outcomes, "abcd"[:classes]).values) == set(metrics_of(kind, classes))


def test_the_class_report_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    found = class_report(sk.confusion_matrix(y, guess))
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, guess)
    for k, row in enumerate(found):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((precision[k], recall[k], f1[k]))
        assert row["support"] == support[k]


def test_a_class_that_is_never_predicted_has_no_precision():
    first, second = class_report(np.array([[3, 0], [2, 0]]))
    assert math.isnan(second["precision"])
    assert (second["recall"], second["f1"], second["support"]) == (0.0, 0.0, 2)
    assert first["precision"] == 0.6


@pytest.mark.parametrize(
    ("kind", "counts", "metric"),
    [
        ("binary", (442, 58), "balanced_accuracy"),
        ("binary", (58, 442), "balanced_accuracy"),
        ("binary", (80, 20), "accuracy"),
        ("classification", (90, 5, 5), "balanced_accuracy"),
        ("classification", (9, 0, 0), "accuracy"),
        ("binary", (), "accuracy"),
        ("next-character", (90, 1), "accuracy"),
        ("regression", (), "rmse"),
    ],
)
def test_accuracy_does_not_stand_first_where_one_class_has_most_rows(kind, counts, metric):
    found = headline(kind, "abc"[: len(counts)], counts)
    assert found.metric == metric
    assert (found.why is not None) == (metric == "balanced_accuracy")
    assert found.metric in METRICS


def test_a_positive_class_is_found_by_name():
    assert positive_code(("malignant", "benign"), None) == 1
    assert positive_code(("malignant", "benign"), "malignant") == 0
    with pytest.raises(ConfigError, match="malignent") as caught:
        positive_code(("malignant", "benign"), "malignent")
    assert "malignant" in caught.value.hint
    with pytest.raises(ConfigError, match="there are 3"):
        positive_code(("a", "b", "c"), "a")


def test_rates_without_rows_are_undefined():
    assert all(np.isnan(value) for value in rates(tp=0, fn=0, fp=0, tn=0).values())
    assert {name: flags.tolist() for name, flags in cells(binary([0.9], [1]), 1).items()}["tp"] == [True]

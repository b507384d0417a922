"""Thresholds: what each rule chooses by hand, that the printed value decides as the chosen one, refusals."""

import numpy as np
import pytest

from flctl.errors import ConfigError, DataError
from flctl.evaluation.thresholds import choose, parse_rule

PROBABILITY = np.array([0.95, 0.8, 0.7, 0.4, 0.3, 0.2])
POSITIVE = np.array([True, True, False, True, False, False])


def chosen(text, probability=PROBABILITY, positive=POSITIVE):
    return choose(parse_rule(text), probability, positive, "validation")


@pytest.mark.parametrize(
    ("rule", "between", "recall", "specificity"),
    [
        # At 0.8 two of three positives and no negative, at 0.4 all positives and one negative: the higher of the two.
        ("youden", (0.7, 0.8), 2 / 3, 1.0),
        ("sensitivity=0.9", (0.3, 0.4), 1.0, 2 / 3),
        ("sensitivity=0.3", (0.8, 0.95), 1 / 3, 1.0),
        ("specificity=0.6", (0.3, 0.4), 1.0, 2 / 3),
        ("specificity=1", (0.7, 0.8), 2 / 3, 1.0),
        ("cost=1:20", (0.3, 0.4), 1.0, 2 / 3),
        ("cost=20:1", (0.7, 0.8), 2 / 3, 1.0),
    ],
)
def test_rules_by_hand(rule, between, recall, specificity):
    found = chosen(rule)
    assert between[0] < found.value <= between[1]
    assert (found.rates["recall"], found.rates["specificity"]) == pytest.approx((recall, specificity))
    assert (found.split, found.rows, found.rule) == ("validation", 6, rule)


def test_a_false_positive_that_costs_too_much_predicts_no_row_positive():
    found = chosen("cost=9:1", np.array([0.9, 0.5, 0.2]), np.array([False, True, True]))
    assert 0.9 < found.value <= 1
    assert found.rates["recall"] == 0


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.8", "specificity=0.8", "cost=1:5"])
def test_the_printed_threshold_decides_as_the_rule_chose(rule):
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.2
    probability = 1 / (1 + np.exp(-(rng.normal(size=300) + 2 * positive - 3)))
    found = chosen(rule, probability, positive)
    guess = probability >= float(repr(found.value))
    assert (guess & positive).sum() / positive.sum() == pytest.approx(found.rates["recall"])
    assert (~guess & ~positive).sum() / (~positive).sum() == pytest.approx(found.rates["specificity"])
    assert len(repr(found.value)) <= 8


def test_probabilities_one_bit_apart_are_separated():
    upper = 0.3
    lower = np.nextafter(upper, 0)
    assert lower < chosen("youden", np.array([upper, lower]), np.array([True, False])).value <= upper


@pytest.mark.parametrize("text", ["yuden", "sensitivity=", "cost=1", "1.2", "-0.1", "sensitivity=2", "cost=0:0", "nan"])
def test_what_is_no_rule_is_refused_with_the_rules(text):
    with pytest.raises(ConfigError, match="--threshold") as caught:
        parse_rule(text)
    assert "youden" in caught.value.hint


def test_rows_of_one_class_choose_nothing():
    with pytest.raises(DataError, match="6 validation rows of one class"):
        chosen("youden", positive=np.zeros(6, bool))

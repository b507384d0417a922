"""The spread of a metric over clients, in numbers that a person can check."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.evaluation.spread import by_size, jain_index, spread

NAN = math.nan


def array(*values):
    return np.array(values, np.float64)


def test_spread_by_hand():
    found = spread(array(0.5, NAN, 1.0, 0.75), array(10, 0, 20, 10), higher_is_better=True)
    assert (found.clients, found.undefined) == (3, 0)
    assert found.weighted_mean == pytest.approx((5 + 20 + 7.5) / 40)
    assert found.mean == 0.75
    assert found.std == pytest.approx(math.sqrt((0.0625 + 0.0625) / 3))
    assert (found.worst_decile, found.best_decile) == (0.5, 1.0)
    assert found.jain == pytest.approx(2.25**2 / (3 * (0.25 + 1 + 0.5625)))
    assert (found.quantiles[0.0], found.quantiles[0.5], found.quantiles[1.0]) == (0.5, 0.75, 1.0)


def test_the_worst_decile_is_the_tenth_that_is_served_worst():
    values = np.arange(20, dtype=np.float64)
    assert spread(values, np.ones(20), higher_is_better=True).worst_decile == 0.5
    assert spread(values, np.ones(20), higher_is_better=False).worst_decile == 18.5
    assert spread(values, np.ones(20), higher_is_better=False).best_decile == 0.5


def test_eleven_clients_have_two_in_a_decile():
    assert spread(np.arange(11, dtype=np.float64), np.ones(11), higher_is_better=True).worst_decile == 0.5


def test_clients_whose_metric_is_undefined_are_counted_those_without_rows_are_not():
    found = spread(array(NAN, NAN, 1.0), array(5, 0, 5), higher_is_better=True)
    assert (found.clients, found.undefined, found.mean) == (1, 1, 1.0)


def test_no_client_at_all():
    found = spread(array(NAN), array(0), higher_is_better=True)
    assert found.clients == 0
    assert math.isnan(found.mean)
    assert math.isnan(found.quantiles[0.5])


def test_jains_index_by_hand():
    assert jain_index(array(1, 1, 1, 1)) == 1.0
    assert jain_index(array(1, 0, 0, 0)) == 0.25
    assert jain_index(array(1, 3)) == pytest.approx(16 / 20)
    assert math.isnan(jain_index(array(0, 0)))
    assert math.isnan(jain_index(array(-1, 1)))
    assert math.isnan(jain_index(array()))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30), st.floats(0.01, 100))
def test_jains_index_lies_between_one_kth_and_one_and_knows_no_unit(values, factor):
    index = jain_index(array(*values))
    assert 1 / len(values) - 1e-9 <= index <= 1 + 1e-9
    assert jain_index(array(*values) * factor) == pytest.approx(index)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(0, 9))
def test_size_groups_hold_every_client_once_in_order_of_size(sizes, seed):
    values = np.random.default_rng(seed).random(len(sizes))
    groups = by_size(values, np.array(sizes), higher_is_better=True)
    assert 1 <= len(groups) <= 5
    assert sum(group.clients for group in groups) == len(sizes)
    assert all(a.largest < b.smallest for a, b in itertools.pairwise(groups))
    assert sum(group.mean * group.clients for group in groups) == pytest.approx(values.sum())
    assert min(group.worst for group in groups) == values.min()


def test_size_groups_by_hand():
    values = array(0.1, 0.2, 0.3, 0.4, 0.8, 0.8, 0.8, NAN, 0.4)
    sizes = np.array([5, 5, 5, 6, 90, 91, 92, 93, 94])
    small, large = by_size(values, sizes, higher_is_better=True)
    assert (small.smallest, small.largest, small.clients, small.worst) == (5, 90, 5, 0.1)
    assert (large.smallest, large.largest, large.clients) == (91, 94, 3)
    assert large.mean == pytest.approx((0.8 + 0.8 + 0.4) / 3)


def test_a_few_clients_are_one_group():
    assert len(by_size(array(1, 2, 3), np.array([1, 2, 3]), higher_is_better=True)) == 1
    assert by_size(array(NAN), np.array([1]), higher_is_better=True) == ()

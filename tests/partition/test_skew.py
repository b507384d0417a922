"""Skew: numbers that can be checked by hand, against plain definitions, and on stored partitions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import Owners, store, table

from flctl.data.dataset import Dataset, Split
from flctl.partition.duplicates import Duplicates
from flctl.partition.skew import (
    Targets,
    effective_classes,
    gini,
    hellinger,
    jensen_shannon,
    label_counts,
    label_distance,
    report_skew,
    skew_of,
    wasserstein,
)

quick = settings(deadline=None, max_examples=40)
CORNER, HALF = np.array([[1.0, 0.0]]), np.array([0.5, 0.5])


def test_label_counts():
    client = np.array([0, 0, 1, 1, 1, -1, 2])
    label = np.array([0, 2, 1, 1, 0, 0, -1])
    assert label_counts(client, label, 4, 3).tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([5, 5, 5], 0), ([1, 2, 3, 4], 0.25), ([4, 3, 2, 1], 0.25), ([0, 0, 0, 4], 0.75), ([7], 0), ([0, 0], 0)],
)
def test_gini(sizes, expected):
    assert gini(np.array(sizes)) == pytest.approx(expected)


@quick
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_gini_is_half_the_mean_difference_over_the_mean(sizes):
    s = np.array(sizes, float)
    expected = np.abs(s[:, None] - s).mean() / (2 * s.mean()) if s.any() else 0
    assert gini(np.array(sizes)) == pytest.approx(expected)


def test_divergences_by_hand():
    """One class only, of two equally frequent ones: the middle distribution is (3/4, 1/4)."""
    bits = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) / 2
    assert jensen_shannon(CORNER, HALF) == pytest.approx([bits])
    assert hellinger(CORNER, HALF) == pytest.approx([math.sqrt(1 - math.sqrt(0.5))])
    assert label_distance(CORNER, HALF) == pytest.approx([1])


def test_divergences_of_equal_and_of_disjoint_distributions():
    q = np.array([0.0, 0.3, 0.7])
    for measure, largest in ((jensen_shannon, 1), (hellinger, 1), (label_distance, 2)):
        assert measure(np.array([q, [1, 0, 0]]), q) == pytest.approx([0, largest], abs=1e-12)


def test_effective_classes():
    p = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4])
    assert effective_classes(p) == pytest.approx([1, 2, 4])


def test_wasserstein_by_hand():
    """Half of all values are 0, half are 4: whoever has only zeros is 2 away."""
    distance = wasserstein(np.array([0, 0, 1, 2, 2, 2]), np.array([0.0, 0, 4, 4, 0, 4]), 4)
    assert distance[:2] == pytest.approx([2, 2])
    assert distance[2] == pytest.approx(4 * (2 / 3 - 1 / 2))
    assert np.isnan(distance[3])


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-50, 50)), min_size=1, max_size=60), st.floats(-1e6, 1e6))
def test_wasserstein_is_the_area_between_the_distribution_functions(rows, offset):
    client, values = np.array([k for k, _ in rows]), np.array([v for _, v in rows], float)
    found = wasserstein(client, values + offset, 5)
    places = np.unique(values)
    for k in range(5):
        own = values[client == k]
        if len(own):
            gap = [abs((own <= a).mean() - (values <= a).mean()) for a in places[:-1]]
            assert found[k] == pytest.approx(float(np.dot(gap, np.diff(places))), abs=1e-7)
        else:
            assert np.isnan(found[k])


def report(client, labels, clients, **options):
    return report_skew(np.array(client), clients, Targets(labels=np.array(labels)), **options)


def test_a_report_by_hand():
    """Two clients of one class each, of three and of one row, an empty client and a row that nobody owns."""
    found = report([0, 0, 0, 1, -1], [0, 0, 0, 1, 1], 3, client_ids=["a", "b", "c"])
    assert (found.clients, found.rows, found.empty_clients, found.labels) == (3, 4, 1, 2)
    assert (found.size_min, found.size_median, found.size_mean, found.size_max) == (0, 1, 4 / 3, 3)
    assert found.size_gini == pytest.approx((-2 * 0 + 0 * 1 + 2 * 3) / (3 * 4))
    # |1 - 3/4| + |0 - 1/4| for the first, |0 - 3/4| + |1 - 1/4| for the second, weighted 3 to 1.
    assert found.earth_mover.mean == pytest.approx((3 * 0.5 + 1 * 1.5) / 4)
    assert (found.earth_mover.max, found.earth_mover.worst) == (pytest.approx(1.5), "b")
    assert (found.effective_classes, found.effective_classes_min) == pytest.approx((1, 1))
    everyone = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found.effective_classes_all == pytest.approx(everyone)
    assert np.isnan(found.per_client["hellinger"][2])


def test_iid_clients_have_no_skew():
    found = report(np.arange(40) // 20, np.arange(40) % 4, 2)
    assert (found.jensen_shannon.max, found.hellinger.max, found.earth_mover.max) == pytest.approx((0, 0, 0))
    assert (found.size_gini, found.effective_classes) == pytest.approx((0, 4))


def test_a_real_valued_target_is_measured_in_its_units():
    values = np.repeat(np.arange(10.0), 10)
    found = report_skew(np.repeat([0, 1], 50), 2, Targets(values=values * 1000))
    assert (found.kind, found.labels) == ("bins", 10)
    assert found.earth_mover.mean == pytest.approx(2500)
    assert found.effective_classes == pytest.approx(5)


def test_text_has_sizes_only():
    found = report_skew(np.array([0, 0, 1]), 2, Targets())
    assert (found.kind, found.jensen_shannon, found.effective_classes) == ("none", None, None)
    assert found.size_gini == pytest.approx(1 / 6)


@pytest.mark.parametrize("target", [None, np.zeros(5)])
def test_no_row_has_an_owner(target):
    labels = np.arange(5) if target is None else None
    found = report_skew(np.full(5, -1), 3, Targets(labels=labels, values=target))
    assert (found.rows, found.empty_clients, found.jensen_shannon) == (0, 3, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_blocks_of_clients_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    client, labels = random.integers(0, 50, 900), random.integers(0, 7, 900)
    whole = report(client, labels, 50)
    monkeypatch.setattr("flctl.partition.skew.BLOCK_CELLS", 20)
    parts = report(client, labels, 50)
    assert whole.to_json() == parts.to_json()
    for name, values in whole.per_client.items():
        np.testing.assert_array_equal(values, parts.per_client[name])


def test_json_is_plain_and_without_clients():
    found = report([0, 1, 1], [0, 1, 0], 2, duplicates=Duplicates(1, 2, 3)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["duplicates"] == {
        "rows_across_clients": 1,
        "groups_across_clients": 2,
        "test_rows_in_train": 3,
        "validation_rows_in_train": 0,
    }
    assert "per_client" not in found


def test_a_hundred_thousand_clients():
    random = np.random.default_rng(0)
    client, labels = random.integers(0, 100_000, 300_000), random.integers(0, 10, 300_000)
    found = report(client, labels, 100_000)
    assert found.empty_clients == 100_000 - len(np.unique(client))
    assert 0 < found.jensen_shannon.mean < found.jensen_shannon.max <= 1


def test_a_stored_partition_is_measured_by_its_training_rows(tmp_path):
    owner = np.array([0] * 8 + [1] * 4)
    data = table(12, y=np.array([0] * 8 + [1] * 4))
    found = skew_of(store(tmp_path / "parts", data, Owners(owner, 3), test_fraction=0.25))
    assert (found.rows, found.size_max, found.empty_clients) == (9, 6, 1)
    # 6 of 9 training rows have label 0, all with client 0.
    assert found.earth_mover.mean == pytest.approx((6 * 2 / 3 + 3 * 4 / 3) / 9)
    assert found.earth_mover.worst == "1"
    assert found.duplicates == Duplicates(0, 0, 0)
    assert skew_of(store(tmp_path / "other", data, Owners(owner)), duplicates=False).duplicates is None


def test_stored_regression_and_copies_in_an_own_test_set(tmp_path):
    x, y = np.arange(8, dtype=np.float32).reshape(8, 1) // 2, np.arange(8, dtype=np.float32) // 2
    data = Dataset("table", "regression", x, y, test=Split(x[:3].copy(), y[:3].copy()))
    partition = store(tmp_path / "parts", data, Owners([0, 1] * 4), test_fraction=0)
    found = skew_of(partition)
    assert (found.kind, found.earth_mover.max) == ("bins", pytest.approx(0))
    assert found.duplicates == Duplicates(8, 4, 3)

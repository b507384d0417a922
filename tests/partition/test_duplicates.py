"""Exact duplicates: across clients, and between train and test; a hash is never believed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flctl.partition import duplicates
from flctl.partition.duplicates import Duplicates, ValidationRows, count_duplicates, find_copies, hash_rows


def count(x, y, client, test=None, central=None):
    table = [np.array(x, np.float32), np.array(y)]
    is_test = np.zeros(len(y), bool) if test is None else np.array(test, bool)
    own = None if central is None else [np.array(central[0], np.float32), np.array(central[1])]
    return count_duplicates(table, np.array(client), is_test, own)


def test_copies_at_one_client_are_not_across_clients():
    assert count([[1, 2], [1, 2], [3, 4]], [0, 0, 0], [0, 0, 1]) == Duplicates(0, 0, 0)


def test_rows_and_groups_across_clients():
    x = [[1, 2], [1, 2], [3, 4], [1, 2], [3, 4], [5, 6]]
    assert count(x, [0] * 6, [0, 0, 1, 2, 0, 2]) == Duplicates(5, 2, 0)


def test_a_row_is_its_features_and_its_target():
    assert count([[1, 2], [1, 2]], [0, 1], [0, 1]) == Duplicates(0, 0, 0)


def test_missing_equals_missing_and_zero_equals_minus_zero():
    assert count([[np.nan, 0.0], [-np.nan, -0.0]], [0, 0], [0, 1]) == Duplicates(2, 1, 0)


def test_test_rows_with_a_copy_in_training():
    x = [[1], [1], [1], [2], [2], [3]]
    test = [0, 1, 1, 1, 1, 0]
    assert count(x, [0] * 6, [0, 0, 1, 0, 0, 1], test) == Duplicates(3, 1, 2)


def test_rows_of_a_central_test_set():
    found = count([[1], [2], [3]], [0, 0, 0], [0, 1, 1], central=([[3], [4], [3], [1]], [0, 0, 0, 1]))
    assert found == Duplicates(0, 0, 2)


def test_validation_rows_with_a_copy_in_training_are_counted_apart():
    table = [np.array([[1], [2], [3]], np.float32), np.zeros(3, int)]
    held = [np.array([[1], [3], [4], [5]], np.float32), np.zeros(4, int)]
    central = [np.array([[5], [2]], np.float32), np.zeros(2, int)]
    found = count_duplicates(
        table, np.zeros(3, int), np.array([False, False, True]), central, ValidationRows(held, np.zeros(4, int))
    )
    assert found == Duplicates(0, 0, test_rows_in_train=1, validation_rows_in_train=1)


def test_validation_rows_of_a_client_are_compared_with_other_clients():
    """Row 1 is also in validation at client 1, row 2 only in the source's own validation rows."""
    table = [np.array([[1], [2]], np.float32), np.zeros(2, int)]
    held = [np.array([[1], [2], [3]], np.float32), np.zeros(3, int)]
    validation = ValidationRows(held, np.array([1, -1, 1]))
    found = count_duplicates(table, np.zeros(2, int), np.zeros(2, bool), None, validation)
    assert found == Duplicates(2, 1, test_rows_in_train=0, validation_rows_in_train=2)


def test_nothing_at_all():
    assert count(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, int)) == Duplicates(0, 0, 0)


def test_no_features_but_a_target():
    assert count(np.zeros((2, 0)), [1, 1], [0, 1]) == Duplicates(2, 1, 0)


@pytest.fixture(params=["hashed", "colliding"])
def hashing(request, monkeypatch):
    """`colliding`: every row has the same hash, so that only the comparison can tell rows apart."""
    if request.param == "colliding":
        monkeypatch.setattr(duplicates, "_hash_table", lambda table: np.zeros(len(table[0]), np.uint64))
    monkeypatch.setattr(duplicates, "CHUNK_BYTES", 48)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=30), st.integers(0, 30))
def test_groups_are_exactly_the_equal_rows(hashing, rows, cut):
    x = np.array([a for a, _ in rows], np.uint8).reshape(-1, 1)
    y = np.array([b for _, b in rows], np.int64)
    members, group = find_copies([[x[:cut], y[:cut]], [x[cut:], y[cut:]]])
    found = {frozenset(members[group == g].tolist()) for g in np.unique(group)}
    expected = [frozenset(i for i, other in enumerate(rows) if other == row) for row in set(rows)]
    assert found == {same for same in expected if len(same) > 1}
    assert len(members) == len(set(members.tolist()))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, "<U3"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5)])
def test_hashes_differ_where_rows_do(dtype, shape):
    random = np.random.default_rng(0)
    column = random.integers(0, 100, (500, *shape)).astype(dtype)
    distinct = len(np.unique(column.reshape(500, -1), axis=0))
    assert len(np.unique(hash_rows(column))) == distinct
    assert (hash_rows(column)[7:9] == hash_rows(column[7:9])).all()


def test_the_place_of_a_value_counts():
    rows = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [0, 0, 0, 0]], np.float32)
    first, second, zeros = hash_rows(rows)
    assert first != second
    assert zeros != 0
    assert (hash_rows(rows, 1) != hash_rows(rows)).all()
    signs = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]], np.float32)
    assert len(np.unique(hash_rows(signs))) == 4

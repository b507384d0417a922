"""Batch orders: each client's is its own, whoever stands beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.executors.batches import arrange, batches, local_keys, module_seed, most_steps, orders, step_counts
from flctl.seeds import client_keys
from flctl.types import Allowance, LocalWork

ROWS = st.lists(st.integers(0, 23), min_size=1, max_size=6)
WORK = st.builds(
    LocalWork,
    epochs=st.integers(1, 3),
    steps=st.none() | st.integers(1, 7),
    batch_size=st.integers(0, 9),
    drop_last=st.booleans(),
)


def _keys(count, seed=1, number=2):
    return local_keys(seed, number, np.array([f"c{client}" for client in range(count)]))


def test_a_key_does_not_depend_on_the_width_of_the_ids_beside_it():
    assert client_keys(np.array(["ab", "a"]))[1] == client_keys(np.array(["a"]))[0]
    assert client_keys(np.array(["ab", "a much longer id"]))[0] == client_keys(np.array(["ab"]))[0]


def test_keys_of_a_hundred_thousand_ids_differ_and_so_do_rounds_and_seeds():
    ids = np.arange(100_000).astype(str)
    assert len(np.unique(client_keys(ids))) == len(ids)
    assert not set(local_keys(0, 1, ids[:100]).tolist()) & set(local_keys(0, 2, ids[:100]).tolist())
    assert not set(local_keys(0, 1, ids[:100]).tolist()) & set(local_keys(1, 1, ids[:100]).tolist())


def test_anagrams_have_different_keys():
    keys = client_keys(np.array(["abc", "acb", "cab", "bca"]))
    assert len(set(keys.tolist())) == 4


@pytest.mark.parametrize("epoch", [0, 1])
def test_orders_are_permutations_and_each_position_is_equally_likely(epoch):
    found = orders(_keys(4000), np.full(4000, 5), epoch)
    assert (np.sort(found, axis=1) == np.arange(5)).all()
    counts = np.stack([np.bincount(found[:, place], minlength=5) for place in range(5)])
    # 25 cells of mean 800, standard deviation 25.3; 16 degrees of freedom, 39.25 is the 0.1 % point.
    assert ((counts - 800) ** 2 / 800).sum() < 39.25


def test_neighbouring_rows_and_epochs_are_not_ordered_alike():
    first, second = (orders(_keys(2000), np.full(2000, 2), epoch)[:, 0] for epoch in (0, 1))
    assert abs(np.mean(first) - 0.5) < 0.05
    assert abs(np.mean(first == second) - 0.5) < 0.05


LIMITS = st.none() | st.lists(st.integers(0, 9), min_size=6, max_size=6)


@settings(deadline=None, max_examples=80)
@given(ROWS, WORK, LIMITS)
def test_an_arrangement_holds_each_clients_own_batches(rows, local, limits):
    counts = np.array(rows, np.int64)
    keys = _keys(len(rows))
    arranged = arrange(counts, local, keys, None if limits is None else np.array(limits[: len(rows)]))
    assert sorted(arranged.clients.tolist()) == list(range(len(rows)))
    assert (np.diff(arranged.steps) <= 0).all()
    for place, client in enumerate(arranged.clients.tolist()):
        alone = [batch.tolist() for batch in batches(rows[client], local, keys[client])]
        alone = alone if limits is None else alone[: limits[client]]
        grid = arranged.positions[place].reshape(arranged.counts.shape[1], -1) if arranged.counts.size else []
        side = [row[:count].tolist() for row, count in zip(grid, arranged.counts[place], strict=True) if count]
        assert side == alone
        assert len(alone) == arranged.steps[place]


@settings(deadline=None, max_examples=60)
@given(ROWS, WORK)
def test_shares_of_a_batch_add_up_to_one(rows, local):
    arranged = arrange(np.array(rows, np.int64), local, _keys(len(rows)))
    if arranged.counts.size:
        shares = arranged.shares().reshape(*arranged.counts.shape, -1)
        assert np.allclose(shares.sum(axis=2), arranged.counts > 0)
        assert arranged.active == [int((arranged.steps > step).sum()) for step in range(arranged.counts.shape[1])]


def test_step_counts_by_hand():
    rows = np.array([0, 7, 20])
    assert step_counts(rows, LocalWork(epochs=2, batch_size=5))[0].tolist() == [0, 4, 8]
    assert step_counts(rows, LocalWork(epochs=2, batch_size=8, drop_last=True))[0].tolist() == [0, 0, 4]
    assert step_counts(rows, LocalWork(batch_size=0))[0].tolist() == [0, 1, 1]
    assert step_counts(rows, LocalWork(steps=3, batch_size=5))[0].tolist() == [0, 3, 3]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 23), WORK, st.integers(0, 30))
def test_who_stops_early_makes_the_first_of_its_batches(rows, local, most):
    key = _keys(1)[0]
    whole = [batch.tolist() for batch in batches(rows, local, key)]
    assert [batch.tolist() for batch in batches(rows, local, key, most)] == whole[:most]
    steps = step_counts(np.array([rows]), local, np.array([most]))[0].tolist()
    assert steps == [len(whole[:most])]


def test_an_allowance_is_found_by_the_clients_number():
    allowance = Allowance(np.array([2, 5, 9]), np.array([7, 0, 3]))
    found = most_steps(allowance, np.array([9, 2, 5, 4, 10])).tolist()
    assert found[:3] == [3, 7, 0]
    assert min(found[3:]) > 10**9
    assert min(most_steps(Allowance(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.array([1])).tolist()) > 10**9
    assert most_steps(None, np.array([1])) is None


def test_a_client_of_few_rows_does_not_make_the_others_orders_long():
    """Beside one of 5,000 steps, a client with one batch an epoch would be ordered 5,000 times, for all."""
    rows = np.array([50_000, 10])
    arranged = arrange(rows, LocalWork(epochs=1, batch_size=10), _keys(2))
    assert arranged.steps.tolist() == [5000, 1]
    assert sorted(arranged.positions[1, :10].tolist()) == list(range(10))


def test_the_modules_seed_is_stable_and_differs_by_client():
    keys = _keys(3)
    seeds = {module_seed(key) for key in keys}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert module_seed(keys[0]) == module_seed(_keys(1)[0])

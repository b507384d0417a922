"""The partition store: every row once, counts as stated, same seed same bytes, statistics as merged sums."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import Doubled, Owners, files, quick, store, table

from flctl.data.dataset import Dataset, Split
from flctl.errors import ConfigError, DataError, PluginError
from flctl.partition import split, writer
from flctl.partition.partitioner import Partitioner
from flctl.partition.preprocess import Moments, moments_of

# What it holds


def test_a_partition_small_enough_to_check_by_hand(tmp_path):
    # Client 0 owns rows 0 3 6 9, client 1 rows 1 4 7, client 2 rows 2 5 8; a quarter of 4 is 1, of 3 is 0.75 -> 1.
    partition = store(tmp_path / "x", test_split="last")
    assert partition.column("source_row").tolist() == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    assert partition.bounds.tolist() == [[0, 3, 4], [4, 6, 7], [7, 9, 10]]
    assert partition.counts.tolist() == [[3, 1], [2, 1], [2, 1]]
    x, y = partition.train(1)
    assert x.tolist() == [[2, 3], [8, 9]]
    assert y.tolist() == [1, 0]
    assert partition.test(1)[0].tolist() == [[14, 15]]
    x, y, offsets = partition.test_bounds()
    assert x.tolist() == [[18, 19], [14, 15], [16, 17]]
    assert offsets.tolist() == [0, 1, 2, 3]
    assert [column.tolist() for column in partition.central_test()] == [x.tolist(), y.tolist()]
    assert partition.manifest.rows == writer.RowCounts(train=7, test=3, central_test=3, left_out=0)
    assert (partition.clients, partition.outputs, partition.shape) == (3, 2, (2,))
    assert list(partition.client_ids) == ["0", "1", "2"]


@given(st.data())
@quick
def test_every_row_is_owned_once_or_left_out_and_counts_are_as_stated(tmp_path_factory, data):
    rows = data.draw(st.integers(1, 60), "rows")
    clients = data.draw(st.integers(1, 8), "clients")
    owner = np.array(data.draw(st.lists(st.integers(-1, clients - 1), min_size=rows, max_size=rows), "owner"))
    fraction = data.draw(st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 0.9, 0.999]), "fraction")
    mode = data.draw(st.sampled_from(["auto", "random", "last"]), "mode")
    if (owner < 0).all():
        owner[0] = 0
    dataset = table(rows)
    out = tmp_path_factory.mktemp("store") / "x"
    partition = store(out, dataset, Owners(owner, clients), test_fraction=fraction, test_split=mode)
    stated = partition.manifest.rows
    source = partition.column("source_row")
    assert sorted(source.tolist()) == np.flatnonzero(owner >= 0).tolist()
    assert stated.left_out == int((owner < 0).sum())
    assert stated.train + stated.test + stated.left_out == rows
    for client in range(clients):
        size = int((owner == client).sum())
        held_out = min(max(size - 1, 0), math.floor(round(size * fraction * 1000) / 1000 + 0.5))
        assert partition.counts[client].tolist() == [size - held_out, held_out]
        start, train_end, end = partition.bounds[client].tolist()
        for first, last, (x, y) in (
            (start, train_end, partition.train(client)),
            (train_end, end, partition.test(client)),
        ):
            mine = source[first:last]
            assert (owner[mine] == client).all()
            assert (np.diff(mine) > 0).all(), "a part keeps the order of the source"
            assert x.tolist() == dataset.x[mine].tolist()
            assert y.tolist() == dataset.y[mine].tolist()
    partition.verify_digests()


@given(st.integers(0, 3), st.integers(0, 3))
@quick
def test_equal_seeds_give_equal_bytes_and_the_split_depends_on_the_seed(tmp_path_factory, first, second):
    root = tmp_path_factory.mktemp("store")
    dataset = table(64)
    one = store(root / "one", dataset, seed=first, test_fraction=0.5)
    two = store(root / "two", dataset, seed=second, test_fraction=0.5)
    assert (files(root / "one") == files(root / "two")) == (first == second)
    assert (one.digest == two.digest) == (first == second)


def test_the_digest_is_that_of_the_manifest_and_covers_every_file(tmp_path):
    partition = store(tmp_path / "x")
    raw = (tmp_path / "x" / "manifest.json").read_bytes()
    assert partition.digest == "sha256:" + hashlib.sha256(raw).hexdigest()
    recorded = {entry["file"]: entry["sha256"] for entry in json.loads(raw)["columns"].values()}
    assert recorded | {"manifest.json": hashlib.sha256(raw).hexdigest()} == files(tmp_path / "x")


def test_a_row_added_to_one_client_does_not_move_the_test_rows_of_the_others(tmp_path):
    owner = np.arange(40) % 2
    before = store(tmp_path / "a", table(40), Owners(owner), test_fraction=0.3)
    after = store(tmp_path / "b", table(41), Owners(np.append(owner, 0)), test_fraction=0.3)
    held_out = [p.column("source_row")[slice(*p.bounds[1, 1:])].tolist() for p in (before, after)]
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([0, 1, 2, 3, 4, 5], 0.5, [0, 0, 1, 2, 2, 3]),  # halves go up, one row stays for training
        ([50, 100], 0.29, [15, 29]),  # 14.5 goes up although 50 * 0.29 is 14.499999999999998 in floats
        ([10, 10], 0.0, [0, 0]),
        ([10, 1000], 0.999999, [9, 999]),
    ],
)
def test_rounding_of_the_test_fraction(sizes, fraction, expected):
    assert split.test_counts(np.array(sizes), fraction).tolist() == expected


def test_time_ordered_data_keeps_its_last_rows_for_testing(tmp_path):
    partition = store(tmp_path / "x", table(10, time_ordered=True), Owners(np.zeros(10, int)), test_fraction=0.3)
    assert partition.column("source_row")[7:].tolist() == [7, 8, 9]
    assert partition.manifest.test_split == "last"


def test_empty_clients_have_no_rows_and_are_counted(tmp_path):
    partition = store(tmp_path / "x", table(4), Owners([1, 1, 3, 3], clients=5))
    assert partition.counts.sum(axis=1).tolist() == [0, 2, 0, 2, 0]
    assert [len(partition.train(client)[1]) for client in range(5)] == [0, 2 - 1, 0, 2 - 1, 0]
    assert partition.test_bounds()[2].tolist() == [0, 0, 1, 1, 2, 2]


def test_the_sources_own_test_part_is_the_central_test(tmp_path):
    own = Split(np.full((3, 2), 7, np.float32), np.array([1, 1, 0]))
    partition = store(tmp_path / "x", table(test=own))
    assert [column.tolist() for column in partition.central_test()] == [own.x.tolist(), [1, 1, 0]]
    assert partition.manifest.rows.central_test == 3
    assert partition.manifest.central_test == "own"


def test_a_scheme_may_alter_what_a_client_sees(tmp_path):
    partition = store(tmp_path / "x", table(6), Doubled([0, 0, 0, 1, 1, 1]), test_split="last")
    assert partition.train(1)[0].tolist() == [[106, 107], [108, 109]]
    assert partition.test(1)[0].tolist() == [[110, 111]]
    assert partition.test(1)[1].tolist() == [1]


def test_altered_rows_must_keep_their_shape_and_dtype(tmp_path):
    class Breaks(Owners):
        def alter(self, x, y, client, clients, rng):
            return x.astype(np.float64), y

    with pytest.raises(PluginError, match="altered x to float64"):
        store(tmp_path / "x", scheme=Breaks(np.zeros(10, int)))
    assert os.listdir(tmp_path) == []


# Preprocessing


@given(st.data())
@quick
def test_statistics_as_merged_client_sums_are_those_of_all_training_rows(tmp_path_factory, data):
    rows, clients = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 5))
    seed = data.draw(st.integers(0, 1000))
    random = np.random.default_rng(seed)
    x = random.normal(50, [1, 1e-3, 1e4], (rows, 3)).astype(np.float32)
    x[random.random((rows, 3)) < 0.2] = np.nan
    owner = random.integers(0, clients, rows)
    out = tmp_path_factory.mktemp("store") / "x"
    dataset = Dataset("t", "regression", x, y=(x[:, 0] * 0 + owner).astype(np.float32))
    dataset.y[np.isnan(dataset.y)] = 5
    partition = store(out, dataset, Owners(owner, clients), standardise="auto")
    train = np.concatenate([np.arange(*bounds[:2]) for bounds in partition.bounds])
    raw = x[partition.column("source_row")[train]].astype(np.float64)
    count = (~np.isnan(raw)).sum(axis=0)
    mean = np.where(count > 0, np.nansum(raw, axis=0) / np.maximum(count, 1), 0)
    deviation = np.sqrt(np.nansum((raw - mean) ** 2, axis=0) / np.maximum(count, 1))
    done = partition.manifest.preprocess
    np.testing.assert_allclose(done.shift, mean, rtol=1e-6)
    expected = np.where(deviation <= 1e-7 * np.abs(mean), 1, deviation)
    np.testing.assert_allclose(done.scale, expected, rtol=1e-5)
    target = dataset.y[partition.column("source_row")[train]].astype(np.float64)
    assert partition.target_scale == pytest.approx((target.mean(), target.std() or 1), rel=1e-5)


def test_moments_merge_in_any_grouping():
    x = np.random.default_rng(0).normal(1e6, 1, (30, 1, 1))
    whole = Moments(1)
    whole.merge(*moments_of(x, np.zeros(30, np.int64)))
    parts = Moments(1)
    for first, last in ((0, 4), (4, 5), (5, 30)):
        parts.merge(*moments_of(x[first:last], np.arange(first, last) // 3))
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-9)
    assert parts.count == whole.count == 30


def test_standardised_training_rows_have_mean_0_and_deviation_1_and_missing_cells_are_0(tmp_path):
    x = np.array([[1, 5], [3, 5], [np.nan, 5], [5, 5]], np.float32)
    dataset = Dataset("t", "regression", x, np.array([10, 20, 30, 40], np.float32))
    partition = store(tmp_path / "x", dataset, Owners([0, 0, 1, 1]), standardise="auto", test_fraction=0)
    first, second = partition.train(0)[0], partition.train(1)[0]
    root = math.sqrt(8 / 3)
    np.testing.assert_allclose(first, [[-2 / root, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(second, [[0, 0], [2 / root, 0]], rtol=1e-6)
    np.testing.assert_allclose(partition.train(0)[1], np.array([-15, -5]) / np.std([10, 20, 30, 40]), rtol=1e-6)
    assert partition.manifest.preprocess.scale[1] == 1, "a constant feature is not divided by nothing"
    assert partition.train(0)[0].dtype == np.float32
    assert partition.train(0)[0].flags.c_contiguous


def test_only_numeric_features_are_standardised(tmp_path):
    partition = store(tmp_path / "x", table(8, 3, numeric=(1,)), standardise="feature")
    done = partition.manifest.preprocess
    assert (done.shift[0], done.scale[0], done.shift[2], done.scale[2]) == (0, 1, 0, 1)
    assert done.scale[1] > 1


def test_images_are_standardised_by_channel(tmp_path):
    x = np.zeros((4, 2, 3, 3), np.uint8)
    x[:, 0] = np.array([10, 20, 10, 20])[:, None, None]
    x[:, 1, 0] = 90
    dataset = Dataset("images", "classification", x, np.array([0, 1, 0, 1]), ("a", "b"))
    partition = store(tmp_path / "x", dataset, Owners([0, 0, 1, 1]), standardise="auto", test_fraction=0)
    done = partition.manifest.preprocess
    assert (done.kind, done.shift[0], done.scale[0], done.shift[1]) == ("channel", 15, 5, 30)
    assert partition.train(0)[0][:, 0, 0, 0].tolist() == [-1, 1]
    assert partition.column("x").dtype == np.uint8, "raw values are stored"


def test_pixels_come_between_0_and_1_on_request(tmp_path):
    x = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 85
    dataset = Dataset("images", "classification", x, np.array([0, 1, 0, 1]), ("a", "b"))
    partition = store(tmp_path / "x", dataset, Owners([0, 0, 1, 1]), standardise="unit", test_fraction=0)
    np.testing.assert_allclose(partition.train(0)[0].ravel(), [0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(partition.train(1)[0].ravel(), [2 / 3, 1], rtol=1e-6)


def test_text_is_codes_with_padding(tmp_path):
    x = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    y = np.array([[1, 2, -1], [1, 0, -1]], np.int32)
    dataset = Dataset("text", "next-character", x, y, ("a", "b", "c"))
    partition = store(tmp_path / "x", dataset, Owners([0, 1]), standardise="auto", test_fraction=0)
    rows = partition.train(0)
    assert [column.tolist() for column in rows] == [[[0, 1, 2]], [[1, 2, -1]]]
    assert [column.dtype for column in rows] == [np.int64, np.int64]
    assert partition.outputs == 3


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_values_are_refused_with_the_features_name(tmp_path, bad):
    dataset = table()
    dataset.x[4, 1] = bad
    with pytest.raises(DataError, match="feature 'f1' has values that are infinite"):
        store(tmp_path / "x", dataset, standardise="auto", test_fraction=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "match"),
    [("channel", "needs images"), ("unit", "needs images of bytes"), ("feature", "does not apply to text")],
)
def test_a_standardisation_that_the_data_lacks_is_refused(tmp_path, kind, match):
    text = Dataset("t", "next-character", np.zeros((4, 2), np.uint8), np.zeros((4, 2), np.int32), ("a",))
    with pytest.raises(ConfigError, match=match):
        store(tmp_path / "x", text if kind == "feature" else table(), standardise=kind)


# Requests that cannot be met


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"test_fraction": 1.5}, ConfigError, "test-fraction is 1.5"),
        ({"test_fraction": -0.1}, ConfigError, "test-fraction is -0.1"),
        ({"test_fraction": float("nan")}, ConfigError, "test-fraction is nan"),
        ({"clients": 0}, ConfigError, "clients is 0"),
        ({"clients": 11}, DataError, "more than the 10 rows"),
        ({"by": "site"}, DataError, "no group column 'site'"),
        ({"dataset": table(0), "scheme": Owners([], 1)}, DataError, "has no rows"),
        ({"scheme": Owners(np.full(10, -1), clients=2)}, DataError, "leaves out every row"),
        ({"scheme": Owners(np.full(10, 2), clients=2)}, PluginError, "owner outside -1..1"),
        ({"scheme": Owners(np.zeros(9, int))}, PluginError, r"expected integers \(10,\)"),
        ({"scheme": Owners(np.zeros(10, int), 1, ("",))}, DataError, "cannot have the id"),
        ({"scheme": Owners(np.zeros(10, int), 2, ("a", "a"))}, PluginError, "1 different id for 2"),
        ({"dataset": table(y=np.zeros(10, np.int32))}, PluginError, "returned x float32 and y int32"),
        ({"dataset": table(y=np.arange(10) % 3)}, PluginError, "codes outside its 2 classes"),
        ({"dataset": table(y=np.arange(10) % 2 - 1)}, PluginError, "codes outside its 2 classes"),
        ({"dataset": table(features=("f0",))}, PluginError, "named 1 of 2 features"),
        ({"dataset": table(numeric=(0, 2))}, PluginError, "numeric features that do not exist"),
    ],
)
def test_an_impossible_request_is_refused_and_writes_nothing(tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        store(tmp_path / "x", **options)
    assert os.listdir(tmp_path) == []


def test_an_existing_directory_is_refused_before_any_work(tmp_path):
    class Never(Partitioner):
        name = "never"

        def assign(self, rows, clients, rng):
            pytest.fail("must not be asked")

    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        store(tmp_path / "x", scheme=Never())


# Ids


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
@quick
def test_any_ids_are_kept_and_found(tmp_path_factory, ids):
    rows = len(ids)
    partition = store(tmp_path_factory.mktemp("s") / "x", table(rows), Owners(np.arange(rows), rows, tuple(ids)))
    assert list(partition.client_ids) == ids
    assert [partition.index(client_id) for client_id in ids] == list(range(rows))
    assert all(client_id in partition.client_ids for client_id in ids)


def test_an_unknown_client_is_refused_with_a_suggestion(tmp_path):
    partition = store(tmp_path / "x", table(2), Owners([0, 1], 2, ("HAMLET", "OPHELIA")))
    with pytest.raises(DataError, match="no client 'HAMLTE'") as caught:
        partition.index("HAMLTE")
    assert caught.value.hint == "Did you mean 'HAMLET'?"
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        partition.train(2)
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        partition.test(-1)


def test_numbers_that_look_like_other_ids_are_not_mixed_up(tmp_path):
    partition = store(tmp_path / "x", table(3), Owners([0, 1, 2], 3, ("2", "0", "01")))
    assert [partition.index(name) for name in ("2", "0", "01")] == [0, 1, 2]
    with pytest.raises(DataError):
        partition.index("1")


def test_a_partition_travels_to_another_process_as_its_path(tmp_path):
    partition = store(tmp_path / "x")
    again = pickle.loads(pickle.dumps(partition))
    assert again.digest == partition.digest
    assert len(pickle.dumps(partition)) < 1000

"""Validation rows: held back from training rows, apart from test rows, and absent from the files without them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.stores import Doubled, Owners, store, table

from flctl.data.dataset import Split
from flctl.errors import ConfigError, IntegrityError
from flctl.partition.duplicates import Duplicates
from flctl.partition.export import export_client
from flctl.partition.skew import skew_of
from flctl.partition.verify import verify


def test_a_partition_small_enough_to_check_by_hand(tmp_path):
    # Client 0 owns 0 3 6 9 and tests on 9; of 0 3 6 a third is 1: the last, 6. Clients 1 and 2: 0.67 of 2 -> 1.
    partition = store(tmp_path / "x", test_split="last", validation_fraction=1 / 3)
    assert partition.column("source_row").tolist() == [0, 3, 9, 1, 7, 2, 8]
    assert partition.bounds.tolist() == [[0, 2, 3], [3, 4, 5], [5, 6, 7]]
    assert partition.column("validation_row").tolist() == [6, 4, 5]
    assert [partition.validation(client)[0].tolist() for client in range(3)] == [[[12, 13]], [[8, 9]], [[10, 11]]]
    x, y, offsets = partition.validation_bounds()
    assert (x.tolist(), y.tolist(), offsets.tolist()) == ([[12, 13], [8, 9], [10, 11]], [0, 0, 1], [0, 1, 2, 3])
    assert [part.tolist() for part in partition.central_validation()] == [x.tolist(), y.tolist()]
    rows = partition.manifest.rows
    assert (rows.train, rows.validation, rows.central_validation, rows.test, rows.left_out) == (4, 3, 3, 3, 0)
    assert partition.selection == "validation"


@pytest.mark.parametrize("mode", ["random", "last"])
def test_test_rows_are_those_of_the_partition_without_validation_rows(tmp_path, mode):
    dataset, scheme = table(60), Owners(np.arange(60) % 4)
    plain = store(tmp_path / "plain", dataset, scheme, test_split=mode)
    held = store(tmp_path / "held", dataset, scheme, test_split=mode, validation_fraction=0.25)
    for client in range(4):
        assert plain.test(client)[0].tolist() == held.test(client)[0].tolist()
        together = np.concatenate([held.train(client)[0], held.validation(client)[0]])
        assert sorted(together.tolist()) == plain.train(client)[0].tolist()
    assert held.validation_counts.tolist() == [3, 3, 3, 3]
    assert verify(held).owned == 60


def test_a_partition_without_validation_rows_says_nothing_of_them(tmp_path):
    partition = store(tmp_path / "x")
    written = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert "validation_fraction" not in written
    assert set(written["rows"]) == {"train", "test", "central_test", "left_out"}
    assert partition.selection == "test"
    assert partition.validation_counts.tolist() == [0, 0, 0]
    assert len(partition.central_validation()[1]) == 0


def test_the_last_training_row_of_a_client_is_never_held_back(tmp_path):
    partition = store(tmp_path / "x", table(3), Owners([0, 1, 2]), test_fraction=0, validation_fraction=0.9)
    assert partition.counts[:, 0].tolist() == [1, 1, 1]
    assert partition.manifest.rows.validation == 0
    assert partition.selection is None


def test_the_statistics_do_not_see_validation_rows(tmp_path):
    dataset = table(40)
    held = store(tmp_path / "x", dataset, Owners(np.zeros(40, int)), validation_fraction=0.5, standardise="feature")
    trained = dataset.x[held.column("source_row")[: held.counts[0, 0]]]
    assert held.manifest.preprocess.shift == pytest.approx(trained.mean(axis=0).tolist())


def test_a_scheme_alters_validation_rows_as_it_alters_training_rows(tmp_path):
    held = store(tmp_path / "x", table(20), Doubled(np.arange(20) % 2, 2), validation_fraction=0.25)
    assert held.validation(1)[1].tolist() == [1] * len(held.validation(1)[1])
    assert (held.validation(1)[0] >= 100).all()


def test_validation_rows_of_the_source_are_the_central_ones(tmp_path):
    own = Split(np.full((2, 2), 7, np.float32), np.array([0, 1]))
    partition = store(tmp_path / "x", table(validation=own), validation_fraction=0.5)
    assert partition.central_validation()[0].tolist() == [[7, 7], [7, 7]]
    assert partition.manifest.rows.central_validation == 2
    assert partition.validation_bounds()[2].tolist() == [0, 2, 3, 4]


def test_duplicates_at_two_clients_are_found_in_validation_rows_too(tmp_path):
    """Clients 0 and 1 have the same four rows each, of which one is held back."""
    same = replace(table(8, y=np.zeros(8, np.int64)), x=np.ones((8, 2), np.float32))
    partition = store(tmp_path / "x", same, Owners(np.arange(8) % 2), test_fraction=0.0, validation_fraction=0.25)
    assert partition.validation_counts.tolist() == [1, 1]
    assert skew_of(partition).duplicates == Duplicates(8, 1, 0, validation_rows_in_train=2)


def test_a_flipped_bit_in_a_validation_row_is_found(tmp_path):
    partition = store(tmp_path / "x", validation_fraction=0.5)
    file = tmp_path / "x" / "validation_x.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"validation_x\.npy"):
        partition.verify_digests()


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--validation-fraction is 1"):
        store(tmp_path / "x", validation_fraction=1)


def test_an_exported_client_has_its_validation_rows(tmp_path):
    partition = store(tmp_path / "x", test_split="last", validation_fraction=1 / 3)
    exported = np.load(export_client(partition, 0, tmp_path / "all.npz"))
    assert [exported[name].tolist() for name in ("x", "x_val", "x_test")] == [[[0, 1], [6, 7]], [[12, 13]], [[18, 19]]]
    alone = np.load(export_client(partition, 0, tmp_path / "validation.npz", "validation"))
    assert alone["x"].tolist() == [[12, 13]]
    assert "x_test" not in alone

"""Partitions whose rows stay with their owners: what can be read of them, and by whom."""

import dataclasses

import numpy as np
import pytest

from flctl.errors import DataError, IncompatibleError
from flctl.partition.federated import FederatedData, SiteData
from flctl.partition.view import PartitionView

READS = {
    "train": (0,),
    "train_labels": (0,),
    "test": (0,),
    "validation": (0,),
    "train_starts": (np.array([0]),),
    "take": (np.array([0]), (np.zeros((1, 4), np.float32), np.zeros(1, np.int64))),
    "empty": (),
    "central_test": (),
    "central_validation": (),
    "test_bounds": (),
    "validation_bounds": (),
    "column": ("x",),
    "read_raw": ("x", 0, 1),
}


@pytest.fixture(scope="module")
def federation(toy):
    return FederatedData.of(toy)


def test_a_federation_describes_the_data_as_the_partition_does(federation, toy):
    for name in ("clients", "task", "shape", "classes", "outputs", "target_scale", "digest"):
        assert getattr(federation, name) == getattr(toy, name)
    assert list(federation.client_ids) == list(toy.client_ids)
    np.testing.assert_array_equal(federation.counts, toy.counts)
    np.testing.assert_array_equal(federation.train_sizes(np.array([3, 1])), toy.train_sizes(np.array([3, 1])))
    assert federation.index("4") == 4
    assert federation.selection is None


@pytest.mark.parametrize("method", sorted(READS))
def test_a_federation_has_no_rows_to_read(method, federation):
    with pytest.raises(IncompatibleError, match="stay with their owners"):
        getattr(federation, method)(*READS[method])


def test_every_method_of_a_view_that_reads_rows_is_tried():
    described = {"counts", "train_sizes", "index", "verify_digests"}
    methods = {name for name, value in vars(PartitionView).items() if callable(value) and not name.startswith("_")}
    assert methods - described == set(READS)


def test_a_site_reads_its_own_rows_as_the_partition_does(federation, toy):
    site = SiteData(federation, toy, "3")
    for ours, theirs in ((site.train(3), toy.train(3)), (site.test(3), toy.test(3))):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert site.train_starts(np.array([3, 3])).tolist() == toy.train_starts(np.array([3, 3])).tolist()


@pytest.mark.parametrize("method", ["train", "train_labels", "test", "validation"])
def test_a_site_has_no_rows_of_another(method, federation, toy):
    with pytest.raises(IncompatibleError, match="the rows of client '4' stay with their owners"):
        getattr(SiteData(federation, toy, "3"), method)(4)


def test_a_site_refuses_row_numbers_beyond_its_own(federation, toy):
    site = SiteData(federation, toy, "3")
    with pytest.raises(IncompatibleError, match="the rows of client '4'"):
        site.train_starts(np.array([3, 4]))
    into = tuple(np.zeros((1, *part.shape[1:]), part.dtype) for part in site.empty())
    for row in (toy.bounds[3, 0] - 1, toy.bounds[3, 2]):
        with pytest.raises(IncompatibleError):
            site.take(np.array([row]), into)
    site.take(np.array([toy.bounds[3, 2] - 1]), into)
    np.testing.assert_array_equal(into[0], toy.test(3)[0][-1:])


def test_site_data_of_another_data_set_are_refused(federation, toy):
    other = dataclasses.replace(federation.manifest.dataset, classes=("a", "b", "d"))
    manifest = dataclasses.replace(federation.manifest, dataset=other)
    ids, counts = np.array(list(toy.client_ids)), federation.counts + np.array([1, 0])
    declared = FederatedData(federation.path, manifest, federation.digest, ids, counts)
    with pytest.raises(IncompatibleError, match="classes, rows of the site's data are not those of the federation"):
        SiteData(declared, toy, "3")


def test_declared_counts_fit_the_clients(federation, toy):
    ids = np.array(list(toy.client_ids))
    for counts in (toy.counts[1:], -toy.counts):
        with pytest.raises(DataError):
            FederatedData(federation.path, federation.manifest, federation.digest, ids, counts)

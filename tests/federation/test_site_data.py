"""Packing a site's rows, declaring their number, and federated data directories."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flctl.cli import run
from flctl.errors import ConfigError, DataError, IncompatibleError, IntegrityError
from flctl.federation.coordinator.data import assemble
from flctl.federation.schema.mock import mock_rows
from flctl.federation.schema.read import open_schema
from flctl.federation.site.data import DeclaredRows, declare, pack
from flctl.partition.federated import FederatedData, SiteData
from flctl.partition.federated_files import DeclaredClient, FederatedManifest, federated_data, open_data
from flctl.partition.manifest import parse, serialise
from flctl.partition.store import Partition
from tests.federation.test_schema import ROWS, SCHEMA


@pytest.fixture
def schema_file(tmp_path):
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path / "schema.yaml"


@pytest.fixture
def schema(schema_file):
    return open_schema(schema_file)


def test_a_site_packed_alone_has_the_rows_that_it_has_among_all_sites(tmp_path, schema):
    rows = {site: mock_rows(schema, 40, 1, site) for site in ("c", "a")}
    together = pack(tmp_path / "twin", schema, rows, 0.25)
    alone = pack(tmp_path / "a", schema, {"a": rows["a"]}, 0.25)
    assert list(together.client_ids) == ["a", "c"]
    for mine, theirs in ((alone.train(0), together.train(0)), (alone.test(0), together.test(0))):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])
    assert alone.manifest.preprocess == together.manifest.preprocess == schema.standardisation


def test_fewer_than_ten_training_rows_are_refused(tmp_path, schema):
    with pytest.raises(DataError, match="fewer than 10 training rows"):
        pack(tmp_path / "p", schema, {"a": mock_rows(schema, 11, 0, "a")}, 0.2)


@pytest.mark.parametrize(("rows", "expected"), [("exact", (105, 12)), ("rounded", (110, 12))])
def test_rows_are_declared_exactly_or_rounded(tmp_path, schema, rows, expected):
    partition = pack(tmp_path / "p", schema, {"a": mock_rows(schema, 117, 0, "a")}, 0.1)
    found = declare(partition, "a", schema, rows)
    assert (found.train, found.test) == expected
    assert DeclaredRows.from_json(found.to_json()) == found
    clients = (DeclaredClient("a", found.train, found.test), DeclaredClient("b", 50, 5))
    manifest = FederatedManifest("h", schema.described(), schema.standardisation, clients, schema.inputs)
    site = SiteData(federated_data(manifest, tmp_path / "fed"), partition, "a")
    assert site.counts.tolist() == [[*expected], [50, 5]]
    assert site.train_sizes(np.array([1, 0])).tolist() == [50, 105]


def test_a_site_with_other_rows_than_declared_is_refused(tmp_path, schema):
    own = pack(tmp_path / "p", schema, {"a": mock_rows(schema, 117, 0, "a")}, 0.1)
    clients = (DeclaredClient("a", 104, 12),)
    manifest = FederatedManifest("h", schema.described(), schema.standardisation, clients, schema.inputs)
    with pytest.raises(IncompatibleError, match="rows of the site's data"):
        SiteData(federated_data(manifest, tmp_path / "fed"), own, "a")


@pytest.mark.parametrize("change", [{"train": "9"}, {"train": -1}, {"rows": "all"}, {"more": 1}, {"test": True}])
def test_a_declaration_of_another_form_is_refused(change):
    sound = {"site": "a", "schema": "0" * 64, "train": 9, "test": 1, "rows": "exact"}
    with pytest.raises(DataError):
        DeclaredRows.from_json({**sound, **change})


def test_a_federated_directory_has_sites_and_counts_and_no_rows(tmp_path, schema_file, schema):
    own = pack(tmp_path / "b", schema, {"b": mock_rows(schema, 40, 0, "b")}, 0.25)
    declared = [DeclaredRows("c", schema.digest, 50, 5, "exact"), declare(own, "b", schema, "exact")]
    made = assemble(tmp_path / "fed", "hospitals", schema_file, declared)
    opened = open_data(tmp_path / "fed")
    assert isinstance(opened, FederatedData)
    assert list(opened.client_ids) == ["b", "c"]
    assert opened.counts.tolist() == [[30, 10], [50, 5]]
    assert opened.digest == made.digest
    assert sorted(path.name for path in (tmp_path / "fed").iterdir()) == ["manifest.json", "schema.yaml"]
    site = SiteData(opened, own, "b")
    np.testing.assert_array_equal(site.train(0)[0], own.train(0)[0])
    assert isinstance(open_data(tmp_path / "b"), Partition)
    with pytest.raises(IncompatibleError, match="its rows stay with their owners"):
        Partition.open(tmp_path / "fed")
    assert parse(serialise(opened.manifest)) == opened.manifest  # as workers are sent it


def test_a_site_of_another_schema_or_twice_is_refused(tmp_path, schema_file, schema):
    sound = DeclaredRows("b", schema.digest, 30, 0, "exact")
    with pytest.raises(IncompatibleError, match="c packed rows by another schema"):
        assemble(tmp_path / "fed", "h", schema_file, [sound, DeclaredRows("c", "0" * 64, 30, 0, "exact")])
    with pytest.raises(DataError, match="two declarations"):
        assemble(tmp_path / "fed", "h", schema_file, [sound, sound])
    with pytest.raises(DataError, match="no site has declared"):
        assemble(tmp_path / "fed", "h", schema_file, [])
    assert not (tmp_path / "fed").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": "flctl-federated/2"}, IncompatibleError),
        ({"clients": []}, IntegrityError),
        ({"more": 1}, IntegrityError),
    ],
)
def test_a_damaged_federated_manifest_is_refused(tmp_path, schema_file, schema, change, error):
    assemble(tmp_path / "fed", "h", schema_file, [DeclaredRows("b", schema.digest, 30, 0, "exact")])
    file = tmp_path / "fed" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(error):
        open_data(tmp_path / "fed")


def test_a_manifest_travels_as_plain_values(tmp_path, schema_file, schema):
    made = assemble(tmp_path / "fed", "h", schema_file, [DeclaredRows("b", schema.digest, 30, 0, "exact")])
    parsed = FederatedManifest.parse((tmp_path / "fed" / "manifest.json").read_bytes())
    assert FederatedManifest.from_json(parsed.to_json()) == parsed
    assert made.manifest.dataset.digest == f"sha256:{schema.digest}"


def test_the_commands_pack_declare_and_mock(tmp_path, schema_file, capsys):
    (tmp_path / "rows.csv").write_text(ROWS + "b,50,f,yes\n" * 30)
    home = tmp_path / "home"
    packing = ["site", "data", str(tmp_path / "rows.csv"), "--schema", str(schema_file), "--name", "b"]
    assert run([*packing, "--home", str(home)]) == 0
    assert "will be declared by b (exact): 26 training rows, 7 test rows" in capsys.readouterr().out
    assert run([*packing, "--home", str(home)]) == ConfigError.exit_code
    assert run([*packing, "--home", str(home), "--replace"]) == 0
    fed = ["federation", "data", "h", "--schema", str(schema_file), "--declared", str(home / "declared.json")]
    assert run([*fed, "--out", str(tmp_path / "fed")]) == 0
    assert run(["federation", "mock", str(tmp_path / "fed"), "--rows", "50", "--out", str(tmp_path / "mock")]) == 0
    assert list(Partition.open(tmp_path / "mock").client_ids) == ["b"]
    assert run(["federation", "schema", str(schema_file)]) == 0
    assert open_schema(schema_file).digest in capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--purpose", "a test")], ids=["no purpose", "not joined"])
def test_a_run_that_cannot_start_leaves_nothing_behind(more, tmp_path, schema_file, schema, capsys):
    assemble(tmp_path / "fed", "h", schema_file, [DeclaredRows("b", schema.digest, 30, 0, "exact")])
    home = ("-o", f"engine.home={tmp_path / 'nobody'}")
    words = ["train", str(tmp_path / "fed"), "--rounds", "1", *home, *more, "--out", str(tmp_path / "run")]
    assert run(words) == 2
    assert ("--purpose" if not more else "federation join") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

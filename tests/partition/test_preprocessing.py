"""The fitted preprocessing: made at partition time, kept in the manifest and in each run, checked when it is read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import make_run, toy_dataset
from support.stores import Owners, store, table

from flctl.data.preprocessing import FittedPreprocessing, InputColumn, Inputs, Standardisation, parse_preprocessing
from flctl.data.readers.delimited import CsvReader
from flctl.errors import IncompatibleError, IntegrityError, PluginError
from flctl.partition.manifest import preprocessing_of
from flctl.partition.store import Partition

ROWS = "age,sex,site,pay\n40,m,a,1.5\n20,f,b,2.5\n,m,a,4.0\n30,,b,8.0\n"


@pytest.fixture
def people(tmp_path):
    (tmp_path / "people.csv").write_text(ROWS)
    reader = CsvReader.from_options({"target": "pay", "categorical": "sex", "drop": "site", "na": "?"})
    return reader.read(str(tmp_path / "people.csv"), 0)


def test_a_table_describes_how_its_columns_became_features(people):
    assert people.inputs == Inputs(
        (InputColumn("age", "number"), InputColumn("sex", "category", ("f", "m", "(missing)"))),
        target="pay",
        source=("age", "sex", "site", "pay"),
        missing=("?",),
    )
    assert people.inputs.features == people.features == ("age", "sex=f", "sex=m", "sex=(missing)")


def test_a_partition_keeps_the_preprocessing_it_was_fitted_with(people, tmp_path):
    part = store(tmp_path / "part", people, Owners([0, 0, 1, 1]), standardise="auto", test_fraction=0.0)
    fitted = preprocessing_of(Partition.open(part.path).manifest)
    assert fitted.inputs == people.inputs
    assert fitted.standardisation == part.manifest.preprocess
    # Pooled over both clients: the mean of 40, 20 and 30; one-hot columns stay as they are.
    assert fitted.standardisation.shift == (30.0, 0.0, 0.0, 0.0)
    assert fitted.target_scale == (4.0, pytest.approx(np.std([1.5, 2.5, 4, 8])))
    assert parse_preprocessing(fitted.serialise(), "x") == fitted


def test_features_that_a_reader_only_names_are_numbers(tmp_path):
    part = store(tmp_path / "part", table())
    assert part.manifest.inputs == Inputs((InputColumn("f0", "number"), InputColumn("f1", "number")))


def test_a_partition_of_an_earlier_version_opens_without_its_columns(tmp_path):
    part = store(tmp_path / "part")
    manifest = json.loads((part.path / "manifest.json").read_text())
    del manifest["inputs"]
    (part.path / "manifest.json").write_text(json.dumps(manifest))
    assert Partition.open(part.path).manifest.inputs is None


def test_inputs_that_do_not_become_the_features_are_refused(tmp_path):
    part = store(tmp_path / "part")
    manifest = json.loads((part.path / "manifest.json").read_text())
    manifest["inputs"]["columns"].pop()
    (part.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="inputs do not become the features"):
        Partition.open(part.path)
    wrong = replace(toy_dataset(), inputs=Inputs((InputColumn("p", "number"),)))
    with pytest.raises(PluginError, match="inputs that differ from its features"):
        store(tmp_path / "other", wrong, Owners(np.zeros(len(wrong), int)))


def test_a_run_keeps_a_copy_and_notices_a_change(toy, tmp_path):
    _, directory = make_run(toy, tmp_path / "run")
    assert directory.preprocessing() == preprocessing_of(toy.manifest)
    file = directory.path / "preprocessing.json"
    file.write_bytes(file.read_bytes().replace(b'"p"', b'"P"'))
    with pytest.raises(IntegrityError, match="changed since the run was made"):
        directory.preprocessing()
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        directory.preprocessing()


def test_a_run_of_an_earlier_version_has_no_preprocessing(toy, tmp_path):
    _, directory = make_run(toy, tmp_path / "run")
    del directory.facts["preprocessing_digest"]
    assert directory.preprocessing() is None


FITTED = FittedPreprocessing("regression", (2,), "<f4", Standardisation("feature", (0.0, 1.0), (1.0, 2.0)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": [3]}, "needs 3 shifts"),
        ({"task": "binary"}, "no classes"),
        ({"extra": 1}, "extra"),
        ({"format": "other"}, "format"),
        ({"inputs": {"columns": [], "target": None, "source": [], "missing": []}}, "become 0 features"),
    ],
)
def test_a_damaged_preprocessing_is_refused(change, reason):
    data = json.dumps(json.loads(FITTED.serialise()) | change).encode()
    with pytest.raises(IntegrityError, match=reason):
        parse_preprocessing(data, "preprocessing.json")


def test_a_preprocessing_of_another_version_or_no_json_is_refused():
    data = json.dumps(json.loads(FITTED.serialise()) | {"format": "flctl-preprocessing/2"}).encode()
    with pytest.raises(IncompatibleError, match="flctl-preprocessing/2"):
        parse_preprocessing(data, "preprocessing.json")
    with pytest.raises(IntegrityError, match="not JSON"):
        parse_preprocessing(b"\xff", "preprocessing.json")

"""Built-in data sets, the synthetic federation, and how a source finds its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flctl.data import READERS
from flctl.data.dataset import Dataset, DatasetReader
from flctl.data.sources import open_source
from flctl.errors import ConfigError, DataError, PluginError
from flctl.plugins.registry import Registry

REGISTRY = Registry()


def opened(source: str, reader: str | None = None, seed: int = 0, **options: object) -> Dataset:
    return open_source(source, reader, options, REGISTRY, seed)


@pytest.mark.parametrize(
    ("name", "task", "shape", "classes"),
    [
        ("digits", "classification", (1797, 1, 8, 8), 10),
        ("breast_cancer", "binary", (569, 30), 2),
        ("wine", "classification", (178, 13), 3),
        ("iris", "classification", (150, 4), 3),
        ("diabetes", "regression", (442, 10), 0),
    ],
)
def test_built_in_data_sets(name: str, task: str, shape: tuple[int, ...], classes: int) -> None:
    data = opened(name)
    assert (data.name, data.task, data.x.shape, len(data.classes)) == (name, task, shape, classes)
    assert data.x.dtype == np.float32
    assert data.y.dtype == (np.float32 if task == "regression" else np.int64)
    assert np.isfinite(data.x).all()
    assert not data.features or len(data.features) == shape[1]


def test_diabetes_is_raw_and_breast_cancer_names_its_classes() -> None:
    assert opened("diabetes").x[0, :3].tolist() == pytest.approx([59, 2, 32.1])
    data = opened("breast_cancer")
    assert data.classes == ("malignant", "benign")
    assert np.bincount(data.y).tolist() == [212, 357]


def test_synthetic_by_the_letter_of_the_paper() -> None:
    data = opened("synthetic(0,0,40)", seed=3, iid=True)
    counts = np.unique(data.groups["client"], return_counts=True)[1]
    assert len(counts) == 40
    assert counts.min() >= 50
    # One model for all and inputs around zero: the spread of feature j is j^-0.6.
    spread = data.x.std(axis=0)
    np.testing.assert_allclose(spread, np.arange(1, 61) ** -0.6, rtol=0.1)
    assert data.x.shape[1] == 60
    assert len(data.classes) == 10


def test_synthetic_differs_between_devices_as_alpha_and_beta_say() -> None:
    def means(source: str) -> np.ndarray:
        data = opened(source, seed=1)
        return np.array([data.x[data.groups["client"] == c].mean() for c in np.unique(data.groups["client"])])

    assert means("synthetic(0,5,60)").std() > 5 * means("synthetic(0,0,60)").std()
    assert 3 < means("synthetic(0,5,60)").std() < 7


def test_synthetic_is_a_function_of_its_seed_and_a_device_of_its_number() -> None:
    first, again, other = opened("synthetic", seed=5), opened("synthetic(1,1)", seed=5), opened("synthetic", seed=6)
    np.testing.assert_array_equal(first.x, again.x)
    assert first.x.shape != other.x.shape or not np.array_equal(first.x, other.x)
    by_option = opened("synthetic", seed=5, alpha=1, beta=1, devices=30)
    np.testing.assert_array_equal(first.y, by_option.y)
    fewer = opened("synthetic(1,1,7)", seed=5)
    np.testing.assert_array_equal(fewer.x, first.x[: len(fewer)])


@pytest.mark.parametrize(
    "source", ["synthetic(1)", "synthetic(1,x)", "synthetic(-1,1)", "synthetic(1,1,2.5)", "synthetic(nan,1)"]
)
def test_a_synthetic_that_cannot_be_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(source)


def test_every_reader_has_a_name_a_line_and_documented_options() -> None:
    names = [reader.name for reader in READERS]
    assert len(set(names)) == len(names)
    for reader in READERS:
        assert issubclass(reader, DatasetReader)
        line = (reader.__doc__ or "").splitlines()[0]
        assert 20 < len(line) <= 120
        assert line.rstrip().endswith((".", ")", ":"))


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("digts", "neither a built-in data set nor a file", "Did you mean 'digits'?"),
        ("somewhere/a.csv", "no such file or folder", "Check the path."),
        ("*.csv", "no such file or folder", "Check the path."),
        ("people.cvs", "no such file or folder", "Check the path."),
        ("notes.md", "no reader recognises this file", "Readable sources: digits, breast_cancer"),
        ("empty", "no reader knows this folder", "Use a file in it."),
        ("peple.csv", "no such file or folder", "Did you mean 'people.csv'?"),
    ],
)
def test_a_source_that_nothing_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("# notes")
    (tmp_path / "people.csv.bak").write_text("")
    (tmp_path / "people.csv").touch() if source == "peple.csv" else None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        opened(source)
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_an_option_of_another_reader_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(ConfigError, match="--min-characters is not an option of the digits reader") as caught:
        opened("digits", min_characters=3)
    assert caught.value.hint == "It has no options."
    with pytest.raises(ConfigError) as caught:
        opened("synthetic", alfa=3)
    assert caught.value.hint == "Did you mean '--alpha'?"
    assert len(opened("digits", target=None, by=None)) == 1797


def test_a_bad_value_names_its_flag() -> None:
    with pytest.raises(ConfigError, match=r"--alpha -1.*expected at least 0"):
        opened("synthetic", alpha=-1)
    for size, message in (("3xy", "expected HEIGHTxWIDTH"), ("0x4", "at least 1"), ([4, 0], "at least 1")):
        with pytest.raises(ConfigError, match=f"--image-size .*{message}"):
            opened("x.json", image_size=size)


def test_a_reader_can_be_named_and_a_misspelt_one_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("v,w\n1,0.5\n2,1.5\n")
    assert opened(str(tmp_path / "table.txt"), "csv", target="w").task == "regression"
    with pytest.raises(PluginError) as caught:
        opened("digits", "cvs")
    assert caught.value.hint == "Did you mean 'csv'?"


def test_each_format_finds_its_reader(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ANN:\nHello.\n")
    (tmp_path / "notes.txt").write_text("Hello.\n")
    expected = {
        "a.csv": "csv", "a.TSV.gz": "csv", "a.data": "csv", "a.arff": "arff", "a.parquet": "parquet",
        "a.feather": "arrow", "a.npz": "npz", "a.npy": "npy", "t10k-images-idx3-ubyte.gz": "idx", "a.json": "leaf",
        "data_batch_1.bin": "cifar", str(tmp_path / "play.txt"): "text", str(tmp_path / "notes.txt"): None,
        "iris": "iris", "synthetic(2,2)": "synthetic",
    }  # fmt: skip
    found = {source: next((r.name for r in READERS if r.reads(source)), None) for source in expected}
    assert expected == found


def test_a_stray_json_does_not_make_a_folder_leaf(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,w\n1,0.5\n2,1.5\n")
    (tmp_path / "about.json").write_text('{"title": "users of things"}')
    assert opened(str(tmp_path), target="w").name == tmp_path.name
    (tmp_path / "about.json").write_text(
        '{"users": ["a"], "num_samples": [2], "user_data": {"a": {"x": [1, 2], "y": [0, 1]}}}'
    )
    assert opened(str(tmp_path)).groups["user"].tolist() == ["a", "a"]


def test_listing_readers_imports_no_heavy_package() -> None:
    code = (
        "import sys; from flctl.data import READERS; [r.reads('a.csv') for r in READERS];"
        "print([m for m in ('torch', 'sklearn', 'pyarrow', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "iris", "diabetes"])
def test_embedded_data_sets_are_those_of_scikit_learn(name: str) -> None:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    found = opened(name)
    np.testing.assert_array_equal(found.x.reshape(len(found.x), -1), bunch.data.astype(np.float32))
    np.testing.assert_array_equal(found.y, bunch.target.astype(found.y.dtype))
    assert list(found.classes) == [str(one) for one in getattr(bunch, "target_names", ())]
    assert name == "digits" or list(found.features) == [str(one) for one in bunch.feature_names]
    assert found.y.dtype == (np.float32 if name == "diabetes" else np.int64)


def test_a_missing_file_of_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from flctl.data.readers.embedded import Iris

    monkeypatch.setattr(Iris, "file", "no-such.csv")
    with pytest.raises(DataError, match=r"scikit-learn has no file datasets/data/no-such\.csv"):
        opened("iris")


def test_a_reader_whose_columns_do_not_pair_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from flctl.data.readers.embedded import Iris

    def read(self: Iris, source: str, seed: int) -> Dataset:
        return Dataset("iris", "classification", np.zeros((3, 2), np.float32), np.zeros(2, np.int64))

    monkeypatch.setattr(Iris, "read", read)
    with pytest.raises(DataError, match="3 examples and 2 targets"):
        opened("iris")


def test_a_pipe_and_a_link_to_nothing_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    os.symlink("gone", "link.csv")
    with pytest.raises(DataError, match=r"pipe\.csv is neither a file nor a folder"):
        opened("pipe.csv", target="y")
    with pytest.raises(DataError, match=r"link\.csv is a link to a missing file"):
        opened("link.csv", target="y")

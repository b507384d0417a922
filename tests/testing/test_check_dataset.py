"""`check_dataset`: our readers pass, and for each check a reader that breaks it is told so."""

import dataclasses
import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.conformance import caught, unmutated

from flctl import DataError, Dataset, DatasetReader, Split
from flctl.plugins.registry import Registry
from flctl.testing import check_dataset
from flctl.testing.dataset.contract import DATASET, DatasetSubject
from flctl.testing.dataset.values import faults_of

CSV = "age,height,kind\n" + "".join(f"{20 + n},{1.5 + n / 100},{'ab'[n % 2]}\n" for n in range(40))
ARFF = "@relation people\n@attribute age numeric\n@attribute kind {a,b}\n@data\n" + "".join(
    f"{20 + n},{'ab'[n % 2]}\n" for n in range(40)
)
TEXT = "".join(
    f"{who}:\nTo be, or not to be, that is the question number {n}.\n\n" for n in range(8) for who in ("A", "B")
)


def samples(folder):
    """Reader -> (source, options): a small sample of each format that needs no optional package."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    images = rng.integers(0, 256, (30, 4, 4)).astype(np.uint8)
    (folder / "a.csv").write_text(CSV)
    (folder / "a.arff").write_text(ARFF)
    (folder / "a.txt").write_text(TEXT)
    np.savez(folder / "a.npz", x=x, y=y)
    np.save(folder / "a.npy", x)
    np.save(folder / "a_labels.npy", y)
    (folder / "a-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x0803, 30, 4, 4) + images.tobytes())
    labels = struct.pack(">II", 0x0801, 30) + bytes(rng.integers(0, 3, 30).astype(np.uint8))
    (folder / "a-labels-idx1-ubyte").write_bytes(labels)
    return {
        "csv": (folder / "a.csv", {"target": "kind"}),
        "arff": (folder / "a.arff", {"target": "kind"}),
        "text": (folder / "a.txt", {}),
        "npz": (folder / "a.npz", {}),
        "idx": (folder / "a-images-idx3-ubyte", {}),
        **{name: (name, {}) for name in ("digits", "breast_cancer", "wine", "iris", "diabetes")},
        "synthetic": ("synthetic(1,1,4)", {}),
    }


SAMPLED = ("csv", "arff", "text", "npz", "idx", "digits", "breast_cancer", "wine", "iris", "diabetes", "synthetic")


@pytest.mark.parametrize("name", SAMPLED)
def test_readers_of_ours_keep_the_contract(tmp_path, name):
    source, options = samples(tmp_path)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check_dataset(Registry().get("dataset", name), source, options).checks == DATASET.ids


class Pairs(DatasetReader):
    """Lines of `label number number`."""

    name = "pairs"
    extensions = (".pairs",)

    def read(self, source, seed):
        try:
            rows = [line.split() for line in Path(source).read_text(encoding="utf-8").splitlines()]
            x = np.array([row[1:] for row in rows], np.float32)
            y = np.array([row[0] for row in rows], np.int64)
        except (OSError, ValueError) as error:
            raise DataError(f"{source}: {error}", hint="Each line is a label and numbers.") from error
        if x.ndim != 2 or not len(x) or not np.isfinite(x).all() or y.min() < 0 or y.max() > 9:
            raise DataError(f"{source} has no rows, or no labels of 0 to 9")
        return Dataset("pairs", "classification", x, y, tuple("0123456789"))


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "a.pairs"
    path.write_text("".join(f"{n % 3} {n}.5 {n * n}\n" for n in range(30)))
    return path


def test_a_sound_reader_passes(sample):
    assert check_dataset(Pairs, sample).checks == DATASET.ids


class ReadsAll(Pairs):
    @classmethod
    def reads(cls, source):
        return True


class ReadsNothing(Pairs):
    extensions = ()


class Opens(Pairs):
    @classmethod
    def reads(cls, source):
        return Path(source).read_bytes()[:1] == b"0"


class Truthy(Pairs):
    @classmethod
    def reads(cls, source):
        return source if source.endswith(".pairs") else None


class Lists(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        return dataset.x, dataset.y


class Codes(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        return dataclasses.replace(dataset, y=dataset.y + 9)


class Wide(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        return dataclasses.replace(dataset, x=dataset.x.astype(np.float64))


class Shuffles(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        order = np.random.permutation(len(dataset))
        return dataclasses.replace(dataset, x=dataset.x[order], y=dataset.y[order])


class Marks(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        Path(source).write_text(Path(source).read_text() + "0 1 1\n")
        return dataset


class Trusts(Pairs):
    def read(self, source, seed):
        rows = [line.split() for line in Path(source).read_text(encoding="utf-8").splitlines()]
        x, y = np.array([row[1:] for row in rows], np.float32), np.array([row[0] for row in rows], np.int64)
        return Dataset("pairs", "classification", x, y, tuple("0123456789"))


class Invents(Pairs):
    """Makes rows of what it cannot read."""

    def read(self, source, seed):
        try:
            return super().read(source, seed)
        except DataError:
            return Dataset("pairs", "classification", np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a",))


class OneRow(Pairs):
    def read(self, source, seed):
        dataset = super().read(source, seed)
        return dataclasses.replace(dataset, x=dataset.x[:1], y=dataset.y[:1])


MUTANTS = {
    "reads": [
        (ReadsAll, ["reads('') is True", "reads('no-such-file.xyz') is True"]),
        (ReadsNothing, "a.pairs') is False"),
        (Opens, "raised FileNotFoundError"),
        (Truthy, "reads('') is None"),
    ],
    "read": [
        (Lists, "it returned tuple, expected a Dataset"),
        (Codes, "y has codes 9..11, expected 0..9"),
        (Wide, "x is float64, expected uint8 or float32"),
    ],
    "same": [(Shuffles, ["x differs by up to"]), (Marks, "a.pairs was changed")],
    "bad-sources": [
        (Trusts, ["a file that is missing: FileNotFoundError", "a file that is cut in half: ValueError"]),
        (Invents, "a file that is empty was read as: x has 0 rows and y has 0"),
    ],
    "written": [(OneRow, "more than the 1 row")],
}


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(DATASET, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, sample, which, mutant, words):
    (tmp_path / "own").mkdir()
    caught(DATASET, DatasetSubject(mutant, {}, str(sample), tmp_path / "own"), which, words)


def data_set(**changed):
    x, y = np.zeros((6, 2), np.float32), np.array([0, 1, 0, 1, 0, 1])
    return dataclasses.replace(Dataset("d", "classification", x, y, ("a", "b")), **changed)


FLAWS = {
    "x is list and y is ndarray": {"x": [[0.0, 1.0]]},
    "the task is 'ranking'": {"task": "ranking"},
    "x has 6 rows and y has 5": {"y": np.zeros(5, np.int64)},
    "x has the shape (6,)": {"x": np.zeros(6, np.float32)},
    "x has infinite values": {"x": np.full((6, 2), np.inf, np.float32)},
    "the name is ''": {"name": ""},
    "y is float32, expected int64": {"y": np.zeros(6, np.float32)},
    "y has codes -1..1": {"y": np.array([-1, 0, 1, 0, 1, 0])},
    "y has the shape (6, 1)": {"y": np.zeros((6, 1), np.int64)},
    "y has values that are NaN": {"task": "regression", "classes": (), "y": np.full(6, np.nan, np.float32)},
    "y has the shape (6, 1), expected that of x": {
        "task": "next-character", "x": np.zeros((6, 2), np.int32), "y": np.zeros((6, 1), np.int32),
    },
    "x is float32, expected uint8 or int32": {"task": "next-character"},
    "classes are not distinct text": {"classes": ("a", "a")},
    "the task is binary, and there are 3 classes": {"task": "binary", "classes": ("a", "b", "c")},
    "found 1 feature name for 2 columns": {"features": ("p",)},
    "numeric names columns outside 0..1": {"numeric": (0, 2)},
    "group 'site' is <U1 (5,)": {"groups": {"site": np.array(list("abcde"))}},
    "group 'site' is int64 (6,)": {"groups": {"site": np.arange(6)}},
    "the test part has 2 examples and 1 target": {"test": Split(np.zeros((2, 2), np.float32), np.zeros(1, np.int64))},
    "the test part's x is float32 (2, 3)": {"test": Split(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))},
    "the test part's y has codes 2..2": {"test": Split(np.zeros((1, 2), np.float32), np.array([2]))},
}  # fmt: skip


def test_a_sound_data_set_has_no_flaw():
    assert list(faults_of(data_set())) == []
    assert list(faults_of(data_set(x=np.full((6, 2), np.nan, np.float32)))) == []


@pytest.mark.parametrize("said", FLAWS)
def test_each_flaw_of_a_data_set_is_named(said):
    assert said in "\n".join(faults_of(data_set(**FLAWS[said])))


def test_compressed_sources_are_cut_and_garbled_too(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode()))
    assert check_dataset(Registry().get("dataset", "csv"), path, {"target": "kind"}).checks == DATASET.ids

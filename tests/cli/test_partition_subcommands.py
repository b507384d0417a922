"""`flctl partition inspect`, `verify` and `export`: what a stored partition holds, and one site's file."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import Owners, quick, store, table

from flctl.cli import run
from flctl.data.dataset import Dataset, Split
from flctl.data.sources import open_source
from flctl.errors import ConfigError, DataError, IntegrityError
from flctl.partition.export import export_all, export_client, file_names
from flctl.partition.store import Partition
from flctl.partition.verify import verify
from flctl.plugins.registry import Registry


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(capsys, *words: str) -> dict:
    assert run(["partition", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["data"]


def sites_store(path: Path, missing=False, **options) -> Partition:
    """Two sites of 6 rows; a name with a comma, a feature called target, and perhaps a missing cell in the south."""
    x = np.random.default_rng(0).normal(0, 10, (12, 2)).astype(np.float32)
    if missing:
        x[7, 1] = np.nan
    dataset = table(12, y=np.arange(12) % 3, classes=("a", "b, c", "d"), features=("weight, kg", "target"))
    scheme = Owners(np.repeat([0, 1], 6), 2, ("north", "south"))
    return store(path, replace(dataset, x=x), scheme, standardise="auto", test_fraction=0.5, **options)


def read(path: str, **options) -> Dataset:
    return open_source(path, None, options, Registry())


# inspect


def test_inspect_tells_what_partition_told(capsys):
    made = command(capsys, "iris", "--clients", "4", "--out", "x")
    seen = command(capsys, "inspect", "x", "--picture", "a.svg", "--csv", "a.csv")
    assert seen | {"next": made["next"]} == made
    assert Path("a.csv").read_bytes() == Path("x/report/heatmap.csv").read_bytes()
    assert Path("a.svg").exists()


def test_inspect_without_looking_for_duplicates(capsys):
    command(capsys, "iris", "--no-duplicates", "--out", "x")
    assert command(capsys, "inspect", "x", "--no-duplicates")["skew"]["duplicates"] is None


def test_duplicates_across_clients_and_into_the_test_rows_are_reported(capsys):
    x = np.zeros((8, 2), np.float32)
    x[:, 0] = [1, 2, 1, 3, 4, 5, 6, 7]  # rows 0 and 2 are equal
    own = Split(np.array([[7, 0], [9, 0]], np.float32), np.zeros(2, np.int64))
    dataset = replace(table(8, y=np.zeros(8, np.int64), test=own), x=x)
    store(Path("x"), dataset, Owners([0, 0, 1, 1, 1, 1, 1, 1]), test_fraction=0)
    found = command(capsys, "inspect", "x")["skew"]["duplicates"]
    assert found == {
        "rows_across_clients": 2,
        "groups_across_clients": 1,
        "test_rows_in_train": 1,
        "validation_rows_in_train": 0,
    }
    assert command(capsys, "verify", "x")["duplicates"] == found


# verify


def test_verify_says_what_is_whole(capsys):
    store(Path("x"), table(10), Owners([0, 0, 0, 1, 1, 1, 2, 2, -1, -1]))
    found = command(capsys, "verify", "x")
    assert (found["files"], found["rows"], found["owned"], found["left_out"]) == (5, 10, 8, 2)
    assert run(["partition", "verify", "x"]) == 0
    shown = capsys.readouterr().out
    assert "8 owned + 2 left out = 10 rows" in shown
    assert "x is intact: sha256:" in shown


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "source_row.npy", "client_ids.npy"])
def test_verify_finds_a_flipped_byte(capsys, name):
    store(Path("x"))
    raw = bytearray(Path("x", name).read_bytes())
    raw[-4] ^= 1
    Path("x", name).write_bytes(raw)
    assert run(["partition", "verify", "x"]) == 6
    assert f"{name} changed since it was written" in capsys.readouterr().err


def rewrite(partition: Partition, name: str, change) -> Partition:
    """The partition with a column changed and its digest made to fit: whole, and wrong."""
    import hashlib

    path = partition.path / f"{name}.npy"
    raw = path.read_bytes()
    array = np.array(partition.column(name))
    change(array)
    path.write_bytes(raw[: len(raw) - array.nbytes] + array.tobytes())
    file = partition.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["columns"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    file.write_text(json.dumps(manifest))
    return Partition.open(partition.path)


def put(place, value):
    def change(array):
        array[place] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("source_row", put(0, 1), "row 1 of the source is owned more than once"),
        ("source_row", put(0, 99), "outside the 10 rows"),
        ("source_row", put(0, -1), "outside the 10 rows"),
        ("y", put(3, 2), "y has codes outside the 2 classes"),
        ("y", put(3, -1), "y has codes outside the 2 classes"),
        ("client_ids", put(0, "1"), "two clients have the same id"),
        ("client_ids", put(0, ""), "a client has no id"),
    ],
)
def test_verify_finds_what_digests_cannot(name, change, message):
    wrong = rewrite(store(Path("x")), name, change)
    with pytest.raises(IntegrityError, match=message):
        verify(wrong)


@pytest.mark.parametrize("code", [2, -1])
@pytest.mark.parametrize("words", [("inspect", "x"), ("export", "x", "--client", "0", "--out", "site.csv")])
def test_a_label_without_a_class_is_damage_to_whoever_reads_it(capsys, words, code):
    wrong = rewrite(store(Path("x")), "y", put(0, code))
    assert run(["partition", *words]) == 6
    assert "y has codes outside the 2 classes" in capsys.readouterr().err
    assert not Path("site.csv").exists()
    with pytest.raises(IntegrityError, match="y has codes outside the 2 classes"):
        wrong.train(0)


def test_verify_finds_values_that_are_infinite_and_not_missing_cells():
    assert verify(rewrite(store(Path("missing")), "x", put((0, 0), np.nan))).owned == 10
    with pytest.raises(IntegrityError, match="x has values that are not finite"):
        verify(rewrite(store(Path("infinite")), "x", put((9, 1), -np.inf)))


def test_an_id_of_half_a_character_is_damage():
    named = store(Path("x"), scheme=Owners(np.arange(10) % 2, 2, ("ab", "c")))
    with pytest.raises(IntegrityError, match="client_ids of the partition are not text"):
        rewrite(named, "client_ids", put(0, "\ud800"))


def test_verify_checks_text_and_regression_targets():
    text = Dataset("t", "next-character", np.zeros((4, 2), np.uint8), np.full((4, 2), -1, np.int32), ("a", "b"))
    partition = store(Path("text"), text, Owners([0, 0, 1, 1]))
    assert verify(partition).owned == 4
    with pytest.raises(IntegrityError, match="x has codes outside"):
        verify(rewrite(partition, "x", put((0, 0), 2)))
    numbers = Dataset("r", "regression", np.zeros((4, 2), np.float32), np.arange(4, dtype=np.float32))
    with pytest.raises(IntegrityError, match="targets that are not finite"):
        verify(rewrite(store(Path("numbers"), numbers, Owners([0, 0, 1, 1])), "y", put(0, np.inf)))


# export


@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_one_sites_file_reads_back_as_its_rows(suffix):
    partition = sites_store(Path("x"), missing=suffix != "npz")
    rows = partition.column("source_row")[slice(*partition.bounds[1, [0, 2]])]
    out = export_client(partition, 1, Path(f"south.{suffix}"))
    options = {} if suffix == "npz" else {"target": "target_"}
    again = read(str(out), **options)
    if again.test is not None:
        x, y = np.concatenate([again.x, again.test.x]), np.concatenate([again.y, again.test.y])
        assert len(again) == partition.counts[1, 0]
    else:
        x, y = again.x, again.y
    np.testing.assert_array_equal(x, partition.column("x")[slice(*partition.bounds[1, [0, 2]])])
    assert [again.classes[code] for code in y] == [partition.classes[row % 3] for row in rows]
    if suffix != "npz":
        assert again.features == ("weight, kg", "target")


@pytest.mark.parametrize(("part", "count"), [("all", 6), ("train", 3), ("test", 3)])
def test_a_part_of_the_rows(part, count):
    partition = sites_store(Path("x"))
    out = export_client(partition, 0, Path("north.csv"), part)
    assert len(out.read_text().splitlines()) == count + 1
    archive = np.load(export_client(partition, 0, Path("north.npz"), part))
    assert len(archive["x"]) + (len(archive["x_test"]) if part == "all" else 0) == count


@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=4, max_size=12))
@quick
def test_every_float_survives_the_csv(tmp_path_factory, values):
    root = tmp_path_factory.mktemp("s")
    x = np.array(values, np.float32)[:, None]
    dataset = Dataset("t", "classification", x, np.arange(len(x)) % 2, ("no", "yes"), ("f",))
    partition = store(root / "x", dataset, Owners(np.zeros(len(x), int)), test_fraction=0)
    with open(export_client(partition, 0, root / "a.csv")) as handle:
        cells = [row["f"] for row in csv.DictReader(handle)]
    np.testing.assert_array_equal(np.array([float(cell or "nan") for cell in cells]).astype(np.float32), x[:, 0])


def test_regression_and_images_and_text_export_too():
    numbers = Dataset("r", "regression", np.ones((4, 1), np.float32), np.array([1.5, 2, 3, 4], np.float32))
    partition = store(Path("r"), numbers, Owners([0, 0, 0, 0]), test_fraction=0)
    assert (
        export_client(partition, 0, Path("r.csv")).read_text()
        == "feature_0,target\n1.0,1.5\n1.0,2.0\n1.0,3.0\n1.0,4.0\n"
    )
    images = Dataset(
        "i", "classification", np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2), np.array([0, 1]), ("a", "b")
    )
    partition = store(Path("i"), images, Owners([0, 0]), test_fraction=0)
    np.testing.assert_array_equal(read(str(export_client(partition, 0, Path("i.npz")))).x, images.x)
    with pytest.raises(DataError, match=r"\.csv needs a table"):
        export_client(partition, 0, Path("i.csv"))
    with pytest.raises(DataError, match=r"\.txt needs text"):
        export_client(partition, 0, Path("i.txt"))


def test_what_a_speaker_says_reads_back_as_the_same_windows(capsys):
    said = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer"
    Path("play.txt").write_text(f"HAMLET:\n{said}\n\nOPHELIA:\nGood my lord\n")
    command(capsys, "play.txt", "--by", "speaker", "--window", "8", "--out", "x")
    command(capsys, "export", "x", "--client", "HAMLET", "--out", "hamlet.txt")
    assert Path("hamlet.txt").read_text() == f"HAMLET:\n{said}\n"
    again = read("hamlet.txt", window=8)
    assert "".join(again.classes[code] for code in again.x[0]) == said[:8]


def test_export_refuses(capsys, here):
    partition = sites_store(Path("x"))
    Path("taken.npz").write_text("mine")
    refusals = {
        ("export", "x", "--client", "north", "--out", "taken.npz"): (2, "exists already"),
        ("export", "x", "--client", "nroth", "--out", "a.npz"): (2, "Did you mean 'north'"),
        ("export", "x", "--client", "north", "--out", "a.xls"): (2, "'.xls' is not an export format"),
        ("export", "x", "--client", "north", "--out", "a.txt"): (2, ".txt needs text"),
        ("export", "x", "--out", "a.npz"): (2, "no client was named"),
        ("export", "x", "--client", "north", "--all", "--out", "a"): (2, "cannot be combined"),
        ("export", "x", "--all", "--format", "xls", "--out", "a"): (2, "'--format': 'xls' is not one of"),
        ("export", "nowhere", "--client", "a", "--out", "a.npz"): (2, "is not a partition"),
    }
    for words, (code, message) in refusals.items():
        assert run(["partition", *words]) == code
        assert message in capsys.readouterr().err
    assert Path("taken.npz").read_text() == "mine"
    assert sorted(os.listdir(here)) == ["taken.npz", "x"]
    with pytest.raises(DataError, match="client 'south' has missing values"):
        export_client(sites_store(Path("m"), missing=True), 1, Path("a.npz"))
    empty = store(Path("e"), table(2), Owners([0, 0], 2))
    with pytest.raises(DataError, match="client '1' has no rows"):
        export_client(empty, 1, Path("a.npz"))
    with pytest.raises(ConfigError, match="exists already"):
        export_all(partition, Path("e"))


def test_everybodys_file_with_an_index(capsys):
    ids = ("CON", "con", "a/b", "../../etc", "é", "nul.txt", "-rf", "x" * 200, "", " ")
    ids = tuple(name or "index" for name in ids)
    partition = store(Path("x"), table(30), Owners(np.arange(30) % 10, 11, (*ids, "nobody")))
    command(capsys, "export", "x", "--all", "--format", "csv", "--out", "sites")
    with open("sites/index.csv", newline="") as handle:
        index = list(csv.DictReader(handle))
    assert [row["client"] for row in index] == [*ids, "nobody"]
    assert index[-1] == {"client": "nobody", "file": "", "train": "0", "test": "0"}
    written = [row["file"] for row in index[:-1]]
    assert sorted([*written, "index.csv"]) == sorted(os.listdir("sites"))
    for row, counts in zip(index, partition.counts, strict=True):
        assert [int(row["train"]), int(row["test"])] == counts.tolist()
    assert len(Path("sites", written[0]).read_text().splitlines()) == 4


@given(st.lists(st.text(min_size=1, max_size=12), max_size=30, unique=True))
@quick
def test_file_names_are_safe_and_differ_whatever_the_case(ids):
    names = list(file_names(ids, ".csv"))
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        stem = name.removesuffix(".csv")
        assert name.isascii()
        assert not set(name) & set('/\\:*?"<>|\0 ')
        assert name[0] not in "-."
        assert stem.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}
        assert name.lower() != "index.csv"
        assert len(name) < 100

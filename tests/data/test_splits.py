"""Split names in file names, several files as one table, and the columns that paths add."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from support.data_files import idx_bytes, read

from flctl.cli import run
from flctl.data.dataset import Dataset
from flctl.data.splits import split_of
from flctl.errors import DataError
from flctl.partition.store import Partition
from flctl.partition.verify import verify

TRAIN = pa.table({"age": [1.0, 2.0, 3.0], "label": ["a", "b", "a"]})
TEST = pa.table({"age": [4.0, 5.0], "label": ["b", "a"]})


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        pa.feather.write_feather(table, path, compression="uncompressed")
    elif path.suffix == ".csv":
        path.write_text("age,label\n" + "".join(f"{row['age']},{row['label']}\n" for row in table.to_pylist()))
    else:
        rows = "\n".join(f"{row['age']},{row['label']}" for row in table.to_pylist())
        path.write_text("@relation r\n@attribute age numeric\n@attribute label {a,b}\n@data\n" + rows + "\n")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.csv", "train"), ("test-00000-of-00001.parquet", "test"), ("adult_Val.csv", "validation"),
     ("validation/a.csv", "validation"), ("data/dev.csv", "validation"), ("contest.csv", None), ("trainer.csv", None),
     ("blood test result.csv", None)],
)  # fmt: skip
def test_a_whole_word_at_either_end_of_a_name_is_a_split(name: str, split: str | None) -> None:
    assert split_of(Path(name)) == split


@pytest.mark.parametrize(
    ("reader", "train", "test"),
    [("csv", "train.csv", "test.csv"), ("parquet", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
     ("arrow", "train/data.arrow", "test/data.arrow"), ("arff", "x_train.arff", "x_test.arff")],
)  # fmt: skip
def test_files_named_test_are_the_sources_own_test_rows(tmp_path: Path, reader: str, train: str, test: str) -> None:
    write(tmp_path / "d" / train, TRAIN)
    write(tmp_path / "d" / test, TEST)
    data = read(reader, tmp_path / "d", target="label")
    assert data.x.ravel().tolist() == [1, 2, 3]
    assert data.y.tolist() == [0, 1, 0]
    assert data.test is not None
    assert (data.test.x.ravel().tolist(), data.test.y.tolist()) == ([4, 5], [1, 0])
    assert any("used as the source's test rows" in note for note in data.notes)


def test_validation_files_are_test_rows_only_if_there_are_no_others(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", TRAIN)
    write(tmp_path / "val.csv", TEST)
    alone = read("csv", tmp_path, target="label")
    assert alone.test is not None
    assert "validation rows, used as the source's test rows" in alone.notes[0]
    write(tmp_path / "test.csv", TEST.slice(0, 1))
    both = read("csv", tmp_path, target="label")
    assert both.test is not None
    assert len(both.test.y) == 1
    assert len(both) == 3
    assert both.validation is not None
    assert both.validation.x.ravel().tolist() == [4, 5]
    assert "val.csv: used as the source's validation rows" in both.notes[1]


def test_validation_files_become_the_partitions_own_validation_rows(tmp_path: Path) -> None:
    for part, table in (("train", TRAIN), ("test", TEST.slice(0, 1)), ("dev", TEST)):
        write(tmp_path / "d" / f"{part}.csv", table)
    words = ["--target", "label", "--clients", "1", "--scheme", "iid", "--standardise", "none", "--no-report"]
    assert run(["partition", str(tmp_path / "d"), *words, "--out", str(tmp_path / "p")]) == 0
    partition = Partition.open(tmp_path / "p")
    assert partition.selection == "validation"
    assert partition.central_validation()[0].ravel().tolist() == [4, 5]
    assert partition.manifest.rows.central_test == 1
    verify(partition)


def test_missing_numbers_of_validation_rows_take_the_mean_of_training_rows(tmp_path: Path) -> None:
    for part, cell in (("train", "1"), ("test", "4"), ("val", "")):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / f"{part}.csv").write_text(f"age,w,label\n{cell},1,a\n3,2,b\n")
    words = ["--target", "label", "--clients", "1", "--scheme", "iid", "--standardise", "none", "--impute", "mean"]
    words += ["--test-fraction", "0", "--no-report", "--out", str(tmp_path / "p")]
    assert run(["partition", str(tmp_path / "d"), *words]) == 0
    assert Partition.open(tmp_path / "p").central_validation()[0].tolist() == [[2, 1], [3, 2]]


def test_splits_none_and_files_of_one_split_are_one_table(tmp_path: Path) -> None:
    write(tmp_path / "blood_test.csv", TRAIN)
    write(tmp_path / "urine_test.csv", TEST)
    assert len(read("csv", tmp_path, target="label")) == 5
    write(tmp_path / "train.csv", TRAIN)
    assert len(read("csv", tmp_path, target="label", splits="none")) == 8


def test_the_test_option_names_test_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", TRAIN)
    write(tmp_path / "b.csv", TEST)
    data = read("csv", tmp_path / "a.csv", target="label", test=str(tmp_path / "b.csv"))
    assert data.test is not None
    assert (len(data), len(data.test.y)) == (3, 2)
    with pytest.raises(DataError, match="named twice"):
        read("csv", tmp_path / "a.csv", target="label", test=str(tmp_path / "a.csv"))


def test_each_of_several_files_is_a_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "guest.csv", TRAIN)
    write(tmp_path / "host, 2.csv", TEST)
    sources = [str(tmp_path / "guest.csv"), str(tmp_path / "host, 2.csv")]
    words = ["--by", "file", "--target", "label", "--test-fraction", "0", "--no-report", "--out", str(tmp_path / "p")]
    assert run(["partition", *sources, *words]) == 0, capsys.readouterr().err
    partition = Partition.open(tmp_path / "p")
    assert list(partition.client_ids) == ["guest", "host, 2"]
    assert partition.counts[:, 0].tolist() == [3, 2]
    assert str(tmp_path) not in (tmp_path / "p" / "manifest.json").read_text()


def test_a_folder_for_each_client_and_hive_folders_give_columns(tmp_path: Path) -> None:
    write(tmp_path / "a" / "north" / "x.csv", TRAIN)
    write(tmp_path / "a" / "south" / "x.csv", TEST)
    data = read("csv", tmp_path / "a", target="label", by="folder")
    assert data.groups["folder"].tolist() == ["north"] * 3 + ["south"] * 2
    assert data.features == ("age",)
    assert set(read("csv", tmp_path / "a", target="label", by="file").groups["file"]) == {"north/x.csv", "south/x.csv"}
    write(tmp_path / "b" / "site=1" / "x.parquet", TRAIN)
    write(tmp_path / "b" / "site=2" / "x.parquet", TEST)
    hive = read("parquet", tmp_path / "b", target="label", categorical="site")
    assert hive.features == ("age", "site=1", "site=2")
    assert hive.x[:, 1].tolist() == [1, 1, 1, 0, 0]
    assert read("parquet", tmp_path / "b", target="label", by="site").groups["site"].tolist() == list("11122")


def indexed(path: Path) -> Dataset:
    if path.suffix == ".csv":
        path.write_text(",v,label\n7,0.5,a\n8,1.5,b\n9,2.5,a\n")
    else:
        # As pandas writes a frame whose index is a column called "row".
        table = pa.table({"v": [0.5, 1.5, 2.5], "label": ["a", "b", "a"], "row": [7, 8, 9]})
        metadata = {"pandas": json.dumps({"index_columns": ["row"], "columns": []})}
        pa.parquet.write_table(table.replace_schema_metadata(metadata), path)
    return read(path.suffix[1:], path, target="label")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_index_is_no_feature_unless_it_is_named(tmp_path: Path, suffix: str) -> None:
    data = indexed(tmp_path / f"a{suffix}")
    assert data.features == ("v",)
    assert any("numbers the rows" in note for note in data.notes)
    name = "c0" if suffix == ".csv" else "row"
    named = read(suffix[1:], tmp_path / f"a{suffix}", target="label", features=f"v,{name}")
    np.testing.assert_array_equal(named.x[:, 1], [7, 8, 9])


def test_all_rows_of_each_client_are_test_rows_at_test_fraction_1(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", TRAIN)
    words = ["--target", "label", "--clients", "2", "--scheme", "iid", "--test-fraction", "1", "--no-report"]
    assert run(["partition", str(tmp_path / "a.csv"), *words, "--out", str(tmp_path / "p")]) == 0
    partition = Partition.open(tmp_path / "p")
    assert partition.counts.sum(axis=0).tolist() == [0, 3]


PAIRS = """\
hospital,ward,v,label
A / B,C,1,x
A,B / C,2,y
A,,3,x
A,B / C,4,y
A / B,C,5,x
"""


def test_pairs_of_groups_are_clients_even_if_a_value_holds_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PAIRS)
    words = ["--by", "hospital,ward", "--target", "label", "--no-report", "--test-fraction", "0"]
    assert run(["partition", str(tmp_path / "a.csv"), *words, "--out", str(tmp_path / "p")]) == 0
    partition = Partition.open(tmp_path / "p")
    assert list(partition.client_ids) == ["A / (missing)", "A / B \\/ C", "A \\/ B / C"]
    assert partition.counts[:, 0].tolist() == [1, 2, 2]


def test_a_pair_without_one_of_its_values_is_left_out_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(PAIRS)
    words = ["partition", str(tmp_path / "a.csv"), "--by", "hospital,ward", "--target", "label", "--no-report"]
    assert run([*words, "--missing-group", "leave-out", "--out", str(tmp_path / "p")]) == 0
    assert Partition.open(tmp_path / "p").clients == 2
    assert run([*words, "--missing-group", "refuse", "--out", str(tmp_path / "q")]) == 2
    assert "1 of 5 rows without a value" in capsys.readouterr().err


def test_test_rows_of_leaf_belong_to_their_users(tmp_path: Path) -> None:
    for part, users in (("train", {"u": 3, "v": 2}), ("test", {"v": 1, "u": 2, "stranger": 1})):
        data = {
            name: {"x": [[i, len(part)] for i in range(n)], "y": [i % 2 for i in range(n)]} for name, n in users.items()
        }
        (tmp_path / "d" / part).mkdir(parents=True)
        content = {"users": list(users), "num_samples": list(users.values()), "user_data": data}
        (tmp_path / "d" / part / "a.json").write_text(json.dumps(content))
    assert (
        run(["partition", str(tmp_path / "d"), "--standardise", "none", "--no-report", "--out", str(tmp_path / "p")])
        == 0
    )
    partition = Partition.open(tmp_path / "p")
    assert partition.counts.tolist() == [[3, 2], [2, 1]]
    assert partition.test(0)[0].tolist() == [[0, 4], [1, 4]]
    assert partition.manifest.rows.left_out == 1
    assert partition.manifest.central_test == "clients"
    verify(partition)


def write_leaf(folder: Path, users: dict[str, int], *, text: bool) -> None:
    """Users with a number of samples each: numbers, or "ab" and the character after it."""
    x, y = (["ab"], "cd") if text else ([[1, len(folder.name)]], [0, 1])
    data = {name: {"x": x * n, "y": [y[i % 2] for i in range(n)]} for name, n in users.items()}
    folder.mkdir(parents=True)
    content = {"users": list(users), "num_samples": list(users.values()), "user_data": data}
    (folder / "a.json").write_text(json.dumps(content))


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_validation_rows_of_leaf_are_those_of_its_val_folder(tmp_path: Path, text: bool) -> None:
    write_leaf(tmp_path / "train", {"u": 3, "v": 2}, text=text)
    write_leaf(tmp_path / "val", {"u": 1, "w": 1}, text=text)
    without = read("leaf", tmp_path)
    assert (len(without.x), without.validation, without.notes) == (
        5, None, ("val/: validation rows, used as the source's test rows",)
    )  # fmt: skip
    assert without.test is not None
    assert without.test.groups["user"].tolist() == ["u", "w"]

    write_leaf(tmp_path / "test", {"u": 4}, text=text)
    data = read("leaf", tmp_path)
    assert data.test is not None
    assert data.validation is not None
    assert (len(data.x), len(data.test.x), len(data.validation.x)) == (5, 4, 2)
    assert data.notes == ("val/: used as the source's validation rows, because of the folder's name",)


def test_validation_rows_of_idx_are_those_of_its_val_files(tmp_path: Path) -> None:
    sizes = {"train": 3, "val": 2, "t10k": 1}
    for part, size in sizes.items():
        images = np.full((size, 2, 2), len(part), np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(size, dtype=np.uint8)))
    data = read("idx", tmp_path)
    assert data.test is not None
    assert data.validation is not None
    assert [len(part.x) for part in (data, data.validation, data.test)] == list(sizes.values())
    assert (data.validation.x == len("val")).all()
    assert "val-images-idx3-ubyte: used as the source's validation rows" in data.notes[1]

    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    data = read("idx", tmp_path)
    assert data.validation is None
    assert data.test is not None
    assert data.test.y.tolist() == [0, 1]


def test_validation_files_beside_a_named_test_file_are_validation_rows(tmp_path: Path) -> None:
    for name, table in (("train.csv", TRAIN), ("val.csv", TEST), ("held.csv", TEST)):
        write(tmp_path / "d" / name, table)
    (tmp_path / "d" / "held.csv").rename(tmp_path / "held.csv")
    data = read("csv", tmp_path / "d", target="label", test=str(tmp_path / "held.csv"))
    assert data.test is not None
    assert data.validation is not None
    assert [len(part.x) for part in (data, data.test, data.validation)] == [3, 2, 2]
    assert data.notes[0].startswith("val.csv: used as the source's validation rows")
    whole = read("csv", tmp_path / "d", target="label", test=str(tmp_path / "held.csv"), splits="none")
    assert (len(whole.x), whole.validation) == (5, None)


@pytest.mark.parametrize("encoding", ["ascii"])
def test_a_terminal_without_utf8_gets_the_partition_and_its_report(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "Zürich – 東京.csv", TRAIN)
    words = ["--by", "file", "--target", "label", "--test-fraction", "0", "--no-report", "--out", str(tmp_path / "p")]
    command = [sys.executable, "-m", "flctl", "partition", str(tmp_path / "Zürich – 東京.csv"), *words]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"training rows" in done.stdout

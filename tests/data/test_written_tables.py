"""Tables as people have them: a row of the table in docs/data.md each, with the right value."""

from __future__ import annotations

import bz2
import datetime
import lzma
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.data_files import read

from flctl.data.sources import find_reader
from flctl.errors import DataError, IntegrityError
from flctl.plugins.registry import Registry

PLAIN = "a,b,label\n1.5,10,x\n2,20,y\n"
RIGHT = [[1.5, 10], [2, 20]]


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.csv", "sep=;\na;b;label\n1.5;10;x\n2;20;y\n", {}),
        ("a.csv", "# made by\n# a logger\n" + PLAIN, {}),
        ("a.csv", PLAIN + "\0\0\0\0", {}),
        ("a.csv", "a;b;label\n1,5;1.0;x\n2;2.0;y\n".replace("1.0", "10").replace("2.0", "20"), {"decimal": ","}),
        ("a.csv", "a;b;label\n1,5 €;+10 %;x\n2 €;20 %;y\n", {"decimal": ","}),
        ("a.csv", 'a,b,label\n$1.5,"10",x\n"2.0",20%,y\n', {"decimal": "."}),
        ("a.csv", "a,b,label,\n1.5,10,x,\n2,20,y,\n", {}),
        ("a.data", "  1.5   10  x\n  2.0   20  y\n", {"header": "no", "target": "-1"}),
        ("a.data", '1.5  10\t"x"\n2.0  20\t"y"\n', {"header": "no", "target": "-1"}),
        ("a.txt", PLAIN, {}),
        ("table", PLAIN, {}),
    ],
)
def test_text_tables_as_people_write_them(tmp_path: Path, name: str, text: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert find_reader(str(path), None, Registry()).name == "csv"
    data = read("csv", path, **{"target": "label", **options})
    np.testing.assert_array_equal(data.x, np.float32(RIGHT))
    assert data.classes == ("x", "y")


def zipped(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", content)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("bz2", lambda content, path: path.write_bytes(bz2.compress(content))),
     ("xz", lambda content, path: path.write_bytes(lzma.compress(content))), ("zip", zipped)],
)  # fmt: skip
def test_packed_tables(tmp_path: Path, ending: str, pack: Callable[[bytes, Path], object]) -> None:
    path = tmp_path / f"a.csv.{ending}"
    pack(PLAIN.encode(), path)
    np.testing.assert_array_equal(read("csv", path, target="label").x, np.float32(RIGHT))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(IntegrityError):
        read("csv", path, target="label")


def test_a_number_with_a_thousands_separator_is_read_and_hinted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a;label\n1.234,5;x\n-2.000.000;y\n0,25;x\n")
    with pytest.raises(DataError) as caught:
        read("csv", path, target="label")
    assert "--decimal , if" in str(caught.value.hint)
    assert read("csv", path, target="label", decimal=",").x.ravel().tolist() == [1234.5, -2e6, 0.25]


def test_an_arrow_stream_is_read_and_must_have_its_end(tmp_path: Path) -> None:
    table = pa.table({"v": [1.0, 2.0, 3.0], "label": ["x", "y", "x"]})
    path = tmp_path / "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    assert read("arrow", path, target="label").x.ravel().tolist() == [1, 2, 3]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="has no end"):
        read("arrow", path, target="label")


def test_times_of_typed_tables_are_seconds(tmp_path: Path) -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    columns = {
        "at": pa.array([start, start + datetime.timedelta(seconds=90)], pa.timestamp("us", "UTC")),
        "on": pa.array([datetime.date(1970, 1, 2), None], pa.date32()),
        "took": pa.array([1500, 2500], pa.duration("ms")),
        "label": pa.array([b"x", b"y"], pa.binary()),
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = read("parquet", tmp_path / "a.parquet", target="label")
    assert data.classes == ("x", "y")
    assert data.inputs is not None
    values = data.x.astype(np.float64) + [column.offset for column in data.inputs.columns]
    np.testing.assert_array_equal(values, [[start.timestamp(), 86400, 1.5], [start.timestamp() + 90, np.nan, 2.5]])


def test_all_columns_of_text_are_named_at_once_with_options_that_work(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"id{i},{i},{'pq'[i % 2]},{['no', 'yes'][i % 2]},{'xy'[i % 2]}" for i in range(12)]
    path.write_text("\n".join(["name,v,job,smokes now,label", *rows]) + "\n")
    with pytest.raises(DataError) as caught:
        read("csv", path, target="label")
    assert caught.value.hint == (
        "Columns with text: 'name', 'job', 'smokes now'. Add for example: --categorical 'job,smokes now' --drop name"
    )
    data = read("csv", path, target="label", categorical="job,smokes now", drop="name")
    assert data.features == ("v", "job=p", "job=q", "smokes now=no", "smokes now=yes")


def test_all_columns_of_text_of_a_typed_table_are_named(tmp_path: Path) -> None:
    table = pa.table({"a": ["p", "q"], "v": [1, 2], "b": ["r", "s"], "label": [0, 1]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read("parquet", tmp_path / "a.parquet", target="label")
    assert "Columns with text: 'a', 'b'" in str(caught.value.hint)


def test_a_column_is_found_in_either_unicode_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tempe\u0301rature,label\n1.5,x\n2,y\n", encoding="utf-8")
    data = read("csv", tmp_path / "a.csv", target="label", features="temp\u00e9rature")
    assert data.x.ravel().tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("cells", "option"),
    [
        (["-0,802", "0,420", "1,136", ""], "--decimal ,"),
        (["$1,250.50", "3,000", "12", "7"], "--decimal ."),
        (["1.5", "2", "?", "4"], "--na '?'"),
        (["31", "44", "58", "102", "7", "not measured"], "--na 'not measured'"),
        (["1,5", "2", "n/a", "0,25"], "--decimal , --na n/a"),
        (["0", "1", "2", "3+"], "--categorical a,b"),
    ],
)
def test_numbers_with_commas_or_words_between_them_keep_being_numbers_in_hints(tmp_path: Path, cells, option) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{i}0;{cell};{cell};{'xy'[i % 2]}" for i, cell in enumerate(cells * 4)]
    path.write_text("\n".join(["v;a;b;label", *rows]) + "\n")
    with pytest.raises(DataError) as caught:
        read("csv", path, target="label")
    assert caught.value.hint == f"Columns with text: 'a', 'b'. Add for example: {option}"
    flags = iter(shlex.split(option))
    data = read("csv", path, target="label", **{flag.removeprefix("--"): next(flags) for flag in flags})
    assert "categorical" in option or data.features == ("v", "a", "b")

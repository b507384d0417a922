"""Tables: what CSV, ARFF, Parquet and Arrow files become, and that formats agree."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flctl.data.dataset import Dataset
from flctl.data.readers.arff import ArffReader
from flctl.data.readers.columnar import ArrowReader, ParquetReader
from flctl.data.readers.delimited import CsvReader
from flctl.errors import DataError, MissingExtraError

PEOPLE = """\
age,job,city,income
39, clerk ,Rome,low
50,boss,Bonn,high
,clerk,Rome,low
28,,Oslo,high
"""


def read_csv(path: Path, text: str | None = None, **options: object) -> Dataset:
    if text is not None:
        path.write_text(text)
    return CsvReader.from_options({"target": "income", **options}).read(str(path), 0)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    return path


def test_text_becomes_sorted_levels_and_a_missing_cell_a_level_of_its_own(people: Path) -> None:
    data = read_csv(people, categorical="job", drop="city")
    assert data.name == "people"
    assert data.task == "binary"
    assert data.classes == ("high", "low")
    assert data.features == ("age", "job=boss", "job=clerk", "job=(missing)")
    assert data.numeric == (0,)
    np.testing.assert_array_equal(data.x, np.float32([[39, 0, 1, 0], [50, 1, 0, 0], [np.nan, 0, 1, 0], [28, 0, 0, 1]]))
    np.testing.assert_array_equal(data.y, [1, 0, 1, 0])
    assert data.x.dtype == np.float32
    assert data.y.dtype == np.int64
    assert data.notes == ("missing cells: age 1",)


def test_a_by_column_is_a_group_and_a_feature_only_when_named(people: Path) -> None:
    data = read_csv(people, by="city", categorical="job,city")
    assert data.groups["city"].tolist() == ["Rome", "Bonn", "Rome", "Oslo"]
    assert not any(name.startswith("city") for name in data.features)
    assert "'city' is a --by column" in data.notes[0]
    named = read_csv(people, by="city", categorical="city", features="age,city")
    assert named.features == ("age", "city=Bonn", "city=Oslo", "city=Rome")


def test_a_numeric_by_column_keeps_its_text_as_a_group_and_its_number_as_a_feature(tmp_path: Path) -> None:
    data = read_csv(tmp_path / "a.csv", "site,v,income\n07,1,a\n8,2,b\n", by="site", features="site,v")
    assert data.groups["site"].tolist() == ["07", "8"]
    np.testing.assert_array_equal(data.x, [[7, 1], [8, 2]])


def test_rows_without_a_group_are_a_group_of_their_own(people: Path) -> None:
    data = read_csv(people, by="job", drop="city")
    assert data.groups["job"].tolist() == ["clerk", "boss", "clerk", "(missing)"]
    assert "1 row without 'job' made the group '(missing)'" in data.notes


def test_columns_go_by_index_too_and_a_name_wins_over_an_index(tmp_path: Path, people: Path) -> None:
    by_index = read_csv(people, target="-1", features="0,1", categorical="1")
    assert by_index.features == read_csv(people, features="age,job", categorical="job").features
    data = read_csv(tmp_path / "n.csv", "1,0,income\n5,6,a\n7,8,b\n", features="0", header="yes")
    np.testing.assert_array_equal(data.x[:, 0], [6, 8])


def test_rows_without_a_target_are_left_out_and_counted(tmp_path: Path) -> None:
    data = read_csv(tmp_path / "a.csv", "v,g,income\n1,p,1.5\n2,q,\n3,p,NA\n4,q,2.5\n", na="NA", by="g")
    np.testing.assert_array_equal(data.x[:, 0], [1, 4])
    np.testing.assert_array_equal(data.y, np.float32([1.5, 2.5]))
    assert data.groups["g"].tolist() == ["p", "q"]
    assert data.notes == ("2 rows without 'income' left out",)


def test_only_empty_cells_and_named_tokens_are_missing(tmp_path: Path) -> None:
    text = "v,w,income\n?,1,a\n 2 ,-,b\n , 3 ,a\n"
    data = read_csv(tmp_path / "a.csv", text, na="?,-")
    np.testing.assert_array_equal(data.x, np.float32([[np.nan, 1], [2, np.nan], [np.nan, 3]]))
    assert data.notes == ("missing cells: v 2, w 1",)


@pytest.mark.parametrize(
    ("cells", "task", "kind", "classes"),
    [
        ("no yes no", "auto", "binary", ("no", "yes")),
        ("True False True", "auto", "binary", ("False", "True")),
        ("10 2 10", "auto", "binary", ("2", "10")),
        ("1.0 0.0 2.0", "auto", "classification", ("0", "1", "2")),
        ("-1 1 -1", "binary", "binary", ("-1", "1")),
        ("0 1 0", "classification", "classification", ("0", "1")),
        ("0.5 1 0", "auto", "regression", ()),
        ("0 1 2", "regression", "regression", ()),
        ("1 2 NA", "classification", "classification", ("1", "2", "NA")),
    ],
)
def test_the_target_decides_the_task(
    tmp_path: Path, cells: str, task: str, kind: str, classes: tuple[str, ...]
) -> None:
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells.split()))
    data = read_csv(tmp_path / "a.csv", "v,income\n" + rows, task=task)
    assert (data.task, data.classes) == (kind, classes)
    assert data.y.dtype == (np.float32 if kind == "regression" else np.int64)


def test_more_than_twenty_whole_numbers_are_a_quantity(tmp_path: Path) -> None:
    twenty, more = ("v,income\n" + "".join(f"0.5,{i}\n" for i in range(n)) for n in (20, 21))
    assert read_csv(tmp_path / "a.csv", twenty).task == "classification"
    assert read_csv(tmp_path / "b.csv", more).task == "regression"
    assert len(read_csv(tmp_path / "b.csv", task="classification").classes) == 21


def test_a_file_without_names_gets_c0_c1_and_loses_no_row(tmp_path: Path) -> None:
    found = read_csv(tmp_path / "a.data", "1,x,a\n2,y,b\n", target="2", categorical="1")
    assert found.features == ("c0", "c1=x", "c1=y")
    assert (
        len(read_csv(tmp_path / "b.csv", "p,q,a\nr,s,b\n", target="2", features="0", categorical="0", header=False))
        == 2
    )


def test_numbers_as_column_names_are_names_when_an_option_says_so(tmp_path: Path) -> None:
    data = read_csv(tmp_path / "pixels.csv", "income,0,1\n3,10,20\n4,30,40\n")
    assert data.features == ("0", "1")
    assert len(data) == 2


@pytest.mark.parametrize(
    ("name", "delimiter", "option"),
    [("a.tsv", "\t", None), ("a.csv", ";", None), ("a.csv", "|", None), ("a.csv", "~", "~")],
)
def test_the_delimiter_is_found_or_named(tmp_path: Path, name: str, delimiter: str, option: str | None) -> None:
    text = "v,w,income\n1,2,a\n3,4,b\n".replace(",", delimiter)
    data = read_csv(tmp_path / name, text, **({"delimiter": option} if option else {}))
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4]])


def test_quotes_hold_delimiters_and_line_ends(tmp_path: Path) -> None:
    text = 'v,"the\njob",income\n1,"a, b",x\n2,"c\nd",y\n3,"say ""no""",x\n'
    data = read_csv(tmp_path / "a.csv", text, categorical="1")
    assert data.features == ("v", "the\njob=a, b", "the\njob=c\nd", 'the\njob=say "no"')
    np.testing.assert_array_equal(data.x[:, 0], [1, 2, 3])


def test_an_inch_sign_is_no_quote(tmp_path: Path) -> None:
    data = read_csv(tmp_path / "a.csv", 'v,pipe,income\n1,5",x\n2,6",y\n3,7",x\n', categorical="pipe")
    assert data.features == ("v", 'pipe=5"', 'pipe=6"', 'pipe=7"')


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf\r\nv,income\r\n\r\n1,a\r\n2,b\r\n\r\n")
    data = read_csv(path)
    assert data.features == ("v",)
    np.testing.assert_array_equal(data.x[:, 0], [1, 2])


def test_a_folder_and_a_glob_are_their_files_in_name_order(tmp_path: Path) -> None:
    for name, value in (("b.csv", 2), ("a.csv.gz", 1), ("c.csv", 3)):
        text = f"v,income\n{value},{value % 2}\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (tmp_path / "README.md").write_text("not data")
    for source in (tmp_path, tmp_path / "*"):
        assert CsvReader.reads(str(source))
        np.testing.assert_array_equal(read_csv(source).x[:, 0], [1, 2, 3])


def test_a_table_is_called_after_its_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "air.2").mkdir()
    (tmp_path / "air.2" / "v1.0_a.csv.gz").write_bytes(gzip.compress(b"v,income\n1,0\n2,1\n"))
    folder = tmp_path / "air.2"
    assert [read_csv(source).name for source in (folder / "v1.0_a.csv.gz", folder / "*.gz")] == ["v1.0_a", "air.2"]


def test_a_bad_cell_in_the_third_file_is_named_with_its_own_line(tmp_path: Path) -> None:
    for name, value in (("a", "1"), ("b", "2"), ("c", "oops")):
        (tmp_path / f"{name}.csv").write_text(f"v,income\n0,0\n\n{value},1\n")
    with pytest.raises(DataError, match=r"c\.csv, line 4, column 'v': 'oops' is not a number"):
        read_csv(tmp_path)


def test_a_bad_cell_is_found_among_rows_that_were_left_out(tmp_path: Path) -> None:
    text = "v,income\n" + "1,\n" * 5 + "2,a\n" + "inf,b\n"
    with pytest.raises(DataError, match="line 8, column 'v': 'inf' is not a finite"):
        read_csv(tmp_path / "a.csv", text)


def test_many_blocks_give_the_same_as_numpy(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(60_000, 3)).astype(np.float32)
    path = tmp_path / "long.csv"
    np.savetxt(
        path, np.c_[values, np.arange(60_000) % 3], delimiter=",", fmt="%.9g", header="a,b,c,income", comments=""
    )
    assert path.stat().st_size > 2 << 20
    data = read_csv(path)
    np.testing.assert_array_equal(data.x, values)
    np.testing.assert_array_equal(data.y, np.arange(60_000) % 3)
    assert data.x.flags.c_contiguous
    assert data.numeric is None


@settings(deadline=None, max_examples=60)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(2, 30), st.integers(1, 4)),
        elements=st.one_of(st.just(np.nan), st.floats(allow_nan=False, allow_infinity=False, width=32)),
    ),
    words=st.data(),
)
def test_any_table_with_missing_cells_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, words: st.DataObject
) -> None:
    values[0] = 1.0  # no column is all missing
    cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), max_size=6)
    groups = words.draw(st.lists(cells, min_size=len(values), max_size=len(values)))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"f{i}" for i in range(values.shape[1])), "group", "income"])
        for index, (row, group) in enumerate(zip(values, groups, strict=True)):
            writer.writerow([*("" if np.isnan(v) else repr(float(v)) for v in row), group, "ab"[index % 2]])
    data = read_csv(path, by="group", header="yes")
    np.testing.assert_array_equal(data.x, values)
    assert data.groups["group"].tolist() == [group or "(missing)" for group in groups]


ARFF = """\
% a comment
@RELATION 'test of it'

@attribute "a b" numeric
@attribute kind {'x y', z}
@attribute user
@attribute class
@data
% another
1.5,'x y',7,no
?,z,8,yes
   % and one more
2.5,?,7,no
"""


def test_arff_takes_names_and_categories_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "t.arff"
    path.write_text(ARFF)
    data = ArffReader.from_options({"target": "class", "by": "user"}).read(str(path), 0)
    assert data.features == ("a b", "kind=x y", "kind=z", "kind=(missing)")
    assert data.groups["user"].tolist() == ["7", "8", "7"]
    np.testing.assert_array_equal(data.x[:, 0], np.float32([1.5, np.nan, 2.5]))


def test_arff_comments_over_many_blocks_cost_no_row(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 2}\n% {'c' * 50}\n" for i in range(40_000))
    (tmp_path / "t.arff").write_text("@attribute v numeric\n@attribute y numeric\n@data\n" + rows)
    data = ArffReader.from_options({"target": "y"}).read(str(tmp_path / "t.arff"), 0)
    np.testing.assert_array_equal(data.x[:, 0], np.arange(40_000))


def _typed_table() -> pa.Table:
    return pa.table(
        {
            "PM2.5": pa.array([1.0, None, float("nan"), 4.0, 5.0]),
            "flag": [True, False, True, False, None],
            "word": ["x", None, "y", "x", "x"],
            "site": pa.array(["s", "t", "s", "t", "s"]).dictionary_encode(),
            "count": pa.array([1, 2, 3, 4, 5], pa.int8()),
            "income": ["lo", "hi", "lo", None, "hi"],
        }
    )


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_typed_tables_read_as_the_same_csv_does(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        pa.parquet.write_table(_typed_table(), path, row_group_size=2)
    else:
        pa.feather.write_feather(_typed_table(), path, chunksize=2)
    reader = ParquetReader if form == "parquet" else ArrowReader
    typed = reader.from_options({"target": "income", "categorical": "word", "by": "site"}).read(str(path), 0)
    text = "PM2.5,flag,word,site,count,income\n1,1,x,s,1,lo\n,0,,t,2,hi\n,1,y,s,3,lo\n4,0,x,t,4,\n5,,x,s,5,hi\n"
    plain = read_csv(tmp_path / "t.csv", text, categorical="word", by="site")
    np.testing.assert_array_equal(typed.x, plain.x)
    np.testing.assert_array_equal(typed.y, plain.y)
    assert (typed.features, typed.numeric, typed.classes, typed.notes) == (
        plain.features,
        plain.numeric,
        plain.classes,
        plain.notes,
    )
    assert typed.groups["site"].tolist() == plain.groups["site"].tolist()


@pytest.mark.parametrize("name", ["pyarrow", "pyarrow.csv"])
def test_without_pyarrow_the_command_that_installs_it_is_named(
    people: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="needs pyarrow") as caught:
        read_csv(people)
    assert caught.value.exit_code == 5
    assert caught.value.hint == "pip install 'flctl[data]'"


MEASURE = """
import resource, sys
from flctl.data.readers.{module} import {reader}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def read(path):
    return {reader}.from_options({{"target": "y"}}).read(path, 0)
read(sys.argv[1])
before = peak()
data = read(sys.argv[2])
print(peak() - before, data.x.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "module", "reader"),
    [("csv", "delimited", "CsvReader"), ("parquet", "columnar", "ParquetReader"), ("npy", "numpy_files", "NpyReader")],
)
def test_reading_takes_at_most_three_times_the_memory_of_the_values(
    tmp_path: Path, suffix: str, module: str, reader: str
) -> None:
    columns = {f"f{i}": np.random.default_rng(i).normal(size=1_000_000).round(5) for i in range(20)}
    table = pa.table({**columns, "y": np.arange(1_000_000) % 2})
    for name, part in (("small", table.slice(0, 1000)), ("large", table)):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "csv":
            pa.csv.write_csv(part, path)
        elif suffix == "parquet":
            pa.parquet.write_table(part, path)
        else:
            np.save(path, np.column_stack([column.to_numpy() for column in part.columns]))
    code = MEASURE.format(module=module, reader=reader)
    if suffix == "npy":
        code = code.replace('"target": "y"', '"target": "-1"')
    command = [sys.executable, "-c", code, str(tmp_path / f"small.{suffix}"), str(tmp_path / f"large.{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, size = map(int, done.stdout.split())
    assert size == 80_000_000
    assert grown < 3 * size

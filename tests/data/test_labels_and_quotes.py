"""Labels that are text, declared values, quotes of ARFF, and checksums of Parquet pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.data_files import read

from flctl.errors import DataError, IntegrityError

ARFF = """\
@relation r
@attribute v numeric
@attribute 'the class' {'O\\'Neil', 'a, b', "c \\"d\\"", ' e', unused}
@data
1,'O\\'Neil'
2,"a, b"
% a comment with a ' quote
3,'c "d"'
4, O'Neil
5,' e'
"""


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_labels_with_leading_zeros_are_text(tmp_path: Path, task: str) -> None:
    (tmp_path / "a.csv").write_text("v,code\n1,01\n2,1\n3,02\n4,2\n5,01\n")
    data = read("csv", tmp_path / "a.csv", target="code", task=task)
    assert data.classes == ("01", "1", "02", "2")
    assert data.y.tolist() == [0, 1, 2, 3, 0]


def test_one_number_written_in_two_ways_is_one_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,code\n1,1\n2,1.0\n3,2\n")
    assert read("csv", tmp_path / "a.csv", target="code").classes == ("1", "2")


def test_a_declared_nominal_target_has_the_declared_classes(tmp_path: Path) -> None:
    levels = ",".join(str(i) for i in range(1, 27))
    rows = "".join(f"{i},{i % 26 + 1}\n" for i in range(52))
    (tmp_path / "a.arff").write_text(f"@relation r\n@attribute v numeric\n@attribute cls {{{levels}}}\n@data\n" + rows)
    data = read("arff", tmp_path / "a.arff", target="cls")
    assert data.task == "classification"
    assert data.classes == tuple(map(str, range(1, 27)))
    assert data.y.tolist() == [i % 26 for i in range(52)]


def test_quotes_and_escapes_of_arff(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(ARFF)
    data = read("arff", tmp_path / "a.arff", target="the class")
    assert [data.classes[code] for code in data.y] == ["O'Neil", "a, b", 'c "d"', "O'Neil", "e"]


def test_a_value_that_is_not_declared_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text("@relation r\n@attribute v {x,y}\n@attribute c {p,q}\n@data\nx,p\nz,q\n")
    with pytest.raises(DataError, match="line 6, column 'v': 'z' is not one of the declared values"):
        read("arff", tmp_path / "a.arff", target="c")


def test_sparse_rows_have_zero_or_the_first_declared_value(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(
        "@relation r\n@attribute v numeric\n@attribute w numeric\n@attribute c {p,q}\n@data\n{1 2.5}\n{0 3, 2 q}\n{}\n"
    )
    data = read("arff", tmp_path / "a.arff", target="c")
    np.testing.assert_array_equal(data.x, [[0, 2.5], [3, 0], [0, 0]])
    assert data.y.tolist() == [0, 1, 0]


def test_a_flipped_bit_in_a_parquet_page_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=500)
    table = pa.table({"v": values, "label": np.arange(500) % 2})
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[content.index(values[250:252].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="corrupt"):
        read("parquet", path, target="label")

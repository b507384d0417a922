"""Bad input, one row a case: the exact kind of error, a part of its sentence, and nothing of its size allocated."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from PIL import Image
from support.data_files import cifar_bytes, idx_bytes, npy_bytes, npy_header, npz_bytes, read

from flctl.errors import ConfigError, DataError, FlctlError, IntegrityError

IMAGES, LABELS = np.zeros((6, 4, 4), np.uint8), (np.arange(6) % 2).astype(np.uint8)
HUGE = 2**31 - 1
OBJECTS = npy_bytes(np.array([{"a": 1}, None], dtype=object), allow_pickle=True)

CSV = [
    ("", "is empty", DataError),
    ("\n\n", "is empty", DataError),
    ("v,w,y\n", "has no rows", DataError),
    ("v,w,y\n1,2,a\n3,b\n5,6,c\n", "line 3: 2 cells, but the header has 3", DataError),
    ("v,w,y\n1,2,a\n\n3,4,b,5\n", "line 4: 4 cells, but the header has 3", DataError),
    ("v,w,y\n1,2,a\n3,x4,b\n", "line 3, column 'w': 'x4' is not a number", DataError),
    ("v,w,y\n1,2,a\n3,nan,b\n", "line 3, column 'w': 'nan' is not a finite", DataError),
    ("v,w,y\n1,inf,a\n3,4,b\n", "line 2, column 'w': 'inf' is not a finite", DataError),
    ("v,w,y\n1,2,a\n3,1e39,b\n", "line 3, column 'w': '1e39' is not a finite", DataError),
    ("v,w,y\n1,0x1F,a\n3,4,b\n", "line 2, column 'w': '0x1F' is not a number", DataError),
    ("v,w,y\n1,,a\n3,,b\n", "column 'w' has no value in any of 2 rows", DataError),
    ("v,w,y\n1,2,a\n3,4,a\n", "target 'y' has only one class", DataError),
    ("v,w,y\n1,2,\n3,4,\n", "has no rows with a target", DataError),
    ("v,w,w,y\n1,2,3,a\n4,5,6,b\n", "columns 1 and 2 are both called 'w'", DataError),
    ('v,w,y\n1,2,a\n3,"4,b\n5,6,c\n', "line 3: a quote opens here and does not close", DataError),
    ('v,w,y\n1,2,a\n3,4,"b\n5,6,c\n7,8,d\n', "line 3: a quote opens here and does not close", DataError),
    (b"v,w,y\n1,2,a\n3,\xe9,b\n", "line 3, column 'w': byte 0xe9 is not UTF-8", DataError),
    (b"v,w,y\n1,2,a\n3,4,\xe9\n", "line 3, column 'y': byte 0xe9 is not UTF-8", DataError),
    (b"v,\xe9,y\n1,2,a\n3,4,b\n", "line 1, column 1: byte 0xe9 is not UTF-8", DataError),
    ("v,w,y\n1,2,a\n".encode("utf-16"), "is UTF-16 text", DataError),
    ("v,w,y\n1,2,1\n3,4,0\n5,6,NA\n", "line 4, column 'y': 'NA' is not a number", DataError),
    ("v,w,y\n1,2,0.5\n3,4,inf\n", "line 3, column 'y': 'inf'", DataError),
    ("v,w,y\n1,2,2.5\n3,4,2.5\n", "target 'y' is 2.5 in every row", DataError),
    ("v,w,y\n" + "".join(f"1,2,word{i}\n" for i in range(21)), "text with 21 distinct values", DataError),
    ("a,b,y\nx,y,z\n", "the first may be names or data", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), CSV, ids=[message for _, message, _ in CSV])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_csv(tmp_path: Path, content: str | bytes, message: str, kind: type[FlctlError], packed: bool) -> None:
    raw = content.encode() if isinstance(content, str) else content
    path = tmp_path / ("bad.csv.gz" if packed else "bad.csv")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(kind) as caught:
        read("csv", path, target="y" if b"z" not in raw else "2")
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert path.name in caught.value.message or "line" not in message


GOOD = "v,w,job,y\n1,2,a,0.5\n3,4,b,1.5\n"
OPTIONS = [
    ({"target": "z"}, "has no column 'z' (--target)", DataError),
    ({"target": "jbo"}, "has no column 'jbo'", DataError),
    ({"target": "4"}, "has no column '4'", DataError),
    ({}, "which column is to be predicted?", ConfigError),
    ({"target": "y", "features": "v,y"}, "'y' is the target and cannot be a feature", ConfigError),
    ({"target": "y", "categorical": "y"}, "--categorical names the target 'y'", ConfigError),
    ({"target": "y", "categorical": "job", "drop": "job"}, "--categorical names 'job', which is not", ConfigError),
    ({"target": "y", "by": "site"}, "has no column 'site' (--by)", DataError),
    ({"target": "y", "drop": "v,w,job"}, "no feature column is left", DataError),
    ({"target": "job", "task": "regression", "features": "v"}, "'a' is not a number", DataError),
    ({"target": "v", "task": "binary", "features": "w", "delimiter": "::"}, "is not one character", ConfigError),
]


@pytest.mark.parametrize(("options", "message", "kind"), OPTIONS, ids=[message for _, message, _ in OPTIONS])
def test_csv_options(tmp_path: Path, options: dict[str, str], message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(kind) as caught:
        read("csv", tmp_path / "a.csv", **options)
    assert type(caught.value) is kind
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        ("binary", [0, 1, 2], "has 3 classes, and binary needs 2"),
        ("classification", [0, 1, np.nan], "row 2: nan is not a finite"),
        ("regression", ["a", "b", "a"], "holds text ('a', 'b'), and regression needs numbers"),
        ("auto", [1 + 2j, 1, 1], "neither numbers nor text"),
        ("classification", np.arange(10_001), "more than the limit of 10,000 classes"),
        ("auto", [b"a", b"a", b"a"], "only one class"),
    ],
)
def test_targets_that_do_not_fit_the_task(tmp_path: Path, task: str, y: list, message: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((len(y), 2)), y=np.array(y))
    with pytest.raises(DataError) as caught:
        read("npz", tmp_path / "a.npz", task=task)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"), [({"target": "9"}, "no column '9'"), ({"target": "a"}, "no column 'a'")]
)
def test_npy_columns_that_are_not_there(tmp_path: Path, options: dict[str, str], message: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(DataError, match=message) as caught:
        read("npy", tmp_path / "a.npy", **options)
    assert caught.value.hint == "It has 0 to 2."


def test_an_npz_group_must_have_a_word_a_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=[0, 1, 0, 1], site=np.zeros(3))
    with pytest.raises(DataError, match="--by site: float64 of shape"):
        read("npz", tmp_path / "a.npz", by="site")


def test_hints_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(DataError) as caught:
        read("csv", tmp_path / "a.csv", target="jbo")
    assert caught.value.hint == "Did you mean 'job'?"
    with pytest.raises(DataError) as caught:
        read("csv", tmp_path / "a.csv", target="y")
    assert caught.value.hint is not None
    assert "--categorical job" in caught.value.hint
    assert "--na a" in caught.value.hint


def test_a_word_in_a_target_of_numbers_is_no_category_and_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,y\n" + "".join(f"1,{i / 7}\n" for i in range(50)) + "1,n/a\n")
    with pytest.raises(DataError, match="line 52, column 'y': 'n/a' is not a number") as caught:
        read("csv", tmp_path / "a.csv", target="y")
    assert caught.value.hint is not None
    assert "--na n/a" in caught.value.hint
    assert "--categorical" not in caught.value.hint


def test_a_category_that_is_an_identifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,y\n" + "".join(f"k{i},{i % 2}\n" for i in range(5000)))
    with pytest.raises(DataError, match="'id' has more than 4,096 distinct values"):
        read("csv", tmp_path / "a.csv", target="y", categorical="id")


def test_hints_quote_names_with_blanks_for_the_shell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("patient id,y\n" + "".join(f"k{i},{i % 2}\n" for i in range(5000)))
    with pytest.raises(DataError) as refused:
        read("csv", tmp_path / "a.csv", target="y", categorical="patient id")
    assert "--drop 'patient id'" in str(refused.value.hint)
    (tmp_path / "latin 1.csv").write_bytes(b"v,y\n\xe9,1\n")
    with pytest.raises(FlctlError) as refused:
        read("csv", tmp_path / "latin 1.csv", target="y")
    assert "utf-8 '" in str(refused.value.hint)


def test_files_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,y\n1,a\n")
    (tmp_path / "b.csv").write_text("v,z\n1,a\n")
    with pytest.raises(DataError, match=r"b\.csv has other columns than a\.csv: y, z"):
        read("csv", tmp_path, target="y")


@pytest.mark.parametrize(("keep", "flip"), [(0.5, False), (0.9, False), (1.0, True)])
def test_a_broken_csv_gz(tmp_path: Path, keep: float, flip: bool) -> None:
    raw = bytearray(gzip.compress(("v,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20_000))).encode()))
    if flip:
        raw[len(raw) // 2] ^= 0x55
    (tmp_path / "a.csv.gz").write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(IntegrityError, match=r"a\.csv\.gz is (truncated|not a valid)"):
        read("csv", tmp_path / "a.csv.gz", target="y")


ARFF = [
    ("@attribute v numeric\n@attribute y numeric\n", "has no @data line", DataError),
    ("@data\n1,2\n", "declares no @attribute", DataError),
    ("@attribute\n@data\n1\n", "line 1: '@attribute' is not an attribute declaration", DataError),
    ("@attribute v numeric\n@attribute y numeric\n@data\n{0 1, 1}\n", "is not a sparse row", DataError),
    ("@attribute v numeric\n@attribute y numeric\n@data\n1,2\n%c\n3\n", "line 6: 1 cell, but", DataError),
    ("@attribute v numeric\n@attribute v numeric\n@data\n1,2\n", "both called 'v'", DataError),
    ("@attribute v numeric\n@attribute y numeric\n@data\n%c\nq,2\n1,3\n", "line 5, column 'v': 'q'", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), ARFF, ids=[message for _, message, _ in ARFF])
def test_arff(tmp_path: Path, content: str, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "a.arff").write_text(content)
    with pytest.raises(kind) as caught:
        read("arff", tmp_path / "a.arff", target="y")
    assert message in caught.value.message


def _parquet(**columns: object) -> bytes:
    stream = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), stream)
    return stream.getvalue()


TYPED = [
    ("parquet", b"", "begins with nothing, expected PAR1", IntegrityError),
    ("parquet", b"PK\x03\x04", "begins with 50 4b 03 04", IntegrityError),
    ("parquet", _parquet(v=[1, 2], y=[0, 1])[:-20], "truncated or corrupt", IntegrityError),
    ("parquet", _parquet(v=[1.0, float("inf")], y=[0, 1]), "row 1, column 'v': a cell is not a finite", DataError),
    ("parquet", _parquet(v=["a", "b"], y=[0, 1]), "row 0, column 'v': a cell is not a number", DataError),
    ("parquet", _parquet(v=[["a"], ["b"]], y=[0, 1]), "column 'v' has type list", DataError),
    ("parquet", _parquet(v=pa.array([None, None], pa.float32()), y=[0, 1]), "no value in any of 2 rows", DataError),
    ("parquet", _parquet(v=[1, 2], y=[0, 0]), "only one class", DataError),
    ("arrow", b"ARROW1\0\0" + b"\0" * 30, "truncated or corrupt", IntegrityError),
    ("arrow", b"FEA1", "begins with 46 45 41 31", IntegrityError),
]


@pytest.mark.parametrize(("form", "content", "message", "kind"), TYPED, ids=[row[2] for row in TYPED])
def test_typed_tables(tmp_path: Path, form: str, content: bytes, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / f"a.{form}").write_bytes(content)
    with pytest.raises(kind) as caught:
        read(form, tmp_path / f"a.{form}", target="y")
    assert message in caught.value.message


def _flip(raw: bytes, place: int) -> bytes:
    flipped = bytearray(raw)
    flipped[place] ^= 0xFF
    return bytes(flipped)


IDX = [
    (b"", "is truncated: 0 bytes", IntegrityError),
    (b"\0\0\x08", "is truncated: 3 bytes", IntegrityError),
    (b"\0\0\x08\x03\0\0", "is truncated inside its header", IntegrityError),
    (b"\x89PNG" + b"\0" * 60, "which is not an IDX magic number", IntegrityError),
    (_flip(idx_bytes(IMAGES), 2), "which is not an IDX magic number", IntegrityError),
    (idx_bytes(IMAGES)[:-1], "is truncated: 95 of 96|declares 96 bytes", IntegrityError),
    (idx_bytes(IMAGES) + b"\0", "more than the 96 bytes", IntegrityError),
    (b"\0\0\x08\x03" + struct.pack(">III", HUGE, HUGE, HUGE), "declares 9,9", IntegrityError),
    (idx_bytes(LABELS), "expected images", DataError),
    (idx_bytes(IMAGES[:5]), "5 examples and 6 labels", DataError),
    (idx_bytes(np.full((6, 4, 4), np.nan, np.float32)), "row 0, position", DataError),
    (idx_bytes(np.zeros((6, 0, 4), np.uint8)), "is empty", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), IDX, ids=[message for _, message, _ in IDX])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_idx(tmp_path: Path, content: bytes, message: str, kind: type[FlctlError], packed: bool) -> None:
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if packed else content)
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS))
    with pytest.raises(kind) as caught:
        read("idx", path)
    assert any(part in caught.value.message for part in message.split("|"))


@pytest.mark.parametrize("labels", [idx_bytes(IMAGES), idx_bytes(LABELS.astype(np.float32)), idx_bytes(LABELS * 0)])
def test_idx_labels_that_are_none(tmp_path: Path, labels: bytes) -> None:
    (tmp_path / "a-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match=r"expected whole-number labels|only one class"):
        read("idx", tmp_path / "a-images-idx3-ubyte")


def _refuse_to_allocate(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    empty = np.empty

    def small(shape: object, *args: object, **options: object) -> np.ndarray:
        array = empty(shape, *args, **options)
        if array.nbytes > limit:
            raise AssertionError(f"allocated {array.nbytes:,} bytes for {shape}")
        return array

    monkeypatch.setattr(np, "empty", small)


def test_a_gzip_bomb_is_never_unpacked_past_its_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = idx_bytes(IMAGES) + bytes(50 << 20)
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb))
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS))
    _refuse_to_allocate(monkeypatch, 1 << 20)
    with pytest.raises(IntegrityError, match="more than the 96 bytes that its header declares"):
        read("idx", tmp_path / "a-images-idx3-ubyte.gz")


def _zip_that_lies(size: int) -> bytes:
    """A deflated member whose entry declares `size` bytes."""
    raw = bytearray(npz_bytes(zipfile.ZIP_DEFLATED, x=npy_header((size // 4,)), y=npy_bytes(LABELS)))
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 24 : directory + 28] = struct.pack("<I", size)
    return bytes(raw)


NPZ = [
    (b"", "is not a valid .npz", IntegrityError),
    (b"PK\x03\x04" + b"\0" * 40, "is not a valid .npz", IntegrityError),
    (npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(LABELS))[:-30], "is not a valid .npz", IntegrityError),
    (npz_bytes(x=OBJECTS, y=npy_bytes(LABELS)), "holds pickled Python objects", IntegrityError),
    (npz_bytes(x=npy_bytes(IMAGES), y=OBJECTS), "array 'y' holds pickled Python objects", IntegrityError),
    (npz_bytes(x=b"not an array", y=npy_bytes(LABELS)), "has no valid .npy header", IntegrityError),
    (npz_bytes(x=npy_header((HUGE, HUGE)), y=npy_bytes(LABELS)), "declares 18,446,744", IntegrityError),
    (npz_bytes(x=npy_bytes(IMAGES)[:-1], y=npy_bytes(LABELS)), "declares 96 bytes", IntegrityError),
    (npz_bytes(x=npy_bytes(IMAGES) + b"\0", y=npy_bytes(LABELS)), "declares 96 bytes of values and", IntegrityError),
    (npz_bytes(x=npy_header((-3, 2)), y=npy_bytes(LABELS)), "declares a negative size", IntegrityError),
    (_zip_that_lies(1 << 31), "declares 2,147,483,648 bytes from", IntegrityError),
    (npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(LABELS[:5])), "6 examples and 5 labels", DataError),
    (npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(LABELS * 0)), "only one class", DataError),
    (npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(2 * np.eye(6))), "expected one target a row", DataError),
    (npz_bytes(x=npy_bytes(np.array(["a"] * 6)), y=npy_bytes(LABELS)), "expected numbers", DataError),
    (npz_bytes(x=npy_bytes(np.zeros(6, [("a", "f4")])), y=npy_bytes(LABELS)), "expected numbers or strings", DataError),
    (npz_bytes(x=npy_bytes(np.array([[0, 1], [np.nan, 2]])), y=npy_bytes(LABELS[:2])), "row 1, column 0", DataError),
    (npz_bytes(x=npy_bytes(np.array([[0, -np.inf], [3, 2]])), y=npy_bytes(LABELS[:2])), "row 0, column 1", DataError),
    (npz_bytes(x=npy_bytes(np.array([[0, 1e39], [3, 2]])), y=npy_bytes(LABELS[:2])), "row 0, column 1", DataError),
    (npz_bytes(x=npy_bytes(IMAGES[:2]), y=npy_bytes(np.array([1.5, np.nan]))), "row 1", DataError),
    (npz_bytes(x=npy_bytes(IMAGES[:0]), y=npy_bytes(LABELS[:0])), "is empty", DataError),
    (npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(LABELS), x_test=npy_bytes(IMAGES[:, :2]), y_test=npy_bytes(LABELS)),
     "x_test is uint8 (1, 2, 4) a row", DataError),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message", "kind"), NPZ, ids=[f"{i} {row[1]}" for i, row in enumerate(NPZ)])
def test_npz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str, kind: type[FlctlError]
) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    _refuse_to_allocate(monkeypatch, 1 << 20)
    with pytest.raises(kind) as caught:
        read("npz", tmp_path / "a.npz")
    assert type(caught.value) is kind
    assert message in caught.value.message


def test_a_flipped_byte_in_an_npz_is_found_by_its_checksum(tmp_path: Path) -> None:
    raw = npz_bytes(x=npy_bytes(IMAGES), y=npy_bytes(LABELS))
    (tmp_path / "a.npz").write_bytes(_flip(raw, raw.index(bytes(96)) + 40))
    with pytest.raises(IntegrityError, match="CRC"):
        read("npz", tmp_path / "a.npz")


NPY = [
    (b"", "has no valid .npy header", IntegrityError),
    (OBJECTS, "holds pickled Python objects", IntegrityError),
    (b"\x80\x04\x95" + b"\0" * 200, "has no valid .npy header", IntegrityError),
    (npy_header((HUGE, 21)), "declares 180,388,626,348 bytes", IntegrityError),
    (npy_bytes(np.zeros((9, 3)))[:-8], "declares 216 bytes", IntegrityError),
    (npy_bytes(np.zeros((9, 3))).replace(b"(9, 3)", b"(9, x)"), "has no valid .npy header", IntegrityError),
    (npy_bytes(np.zeros((9, 3))).replace(b"(9, 3)", b"((((((")[:90], "has no valid .npy header", IntegrityError),
    (npy_bytes(np.zeros(9)), "expected numbers [rows, 2 or more columns]", DataError),
    (npy_bytes(np.array([["a", "b"]])), "expected numbers [rows, 2 or more columns]", DataError),
    (npy_bytes(np.array([[1, 2, np.nan], [1, 2, 3]])), "row 0, column 2", DataError),
    (npy_bytes(np.array([[1, 0, 1], [np.inf, 1, 3]])), "row 1, column 0", DataError),
    (npy_bytes(np.array([[1.0, 5, 1], [2, 5, 3]])), "only one class", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), NPY, ids=[f"{i} {row[1]}" for i, row in enumerate(NPY)])
def test_npy(tmp_path: Path, content: bytes, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(kind) as caught:
        read("npy", tmp_path / "a.npy", target=1)
    assert type(caught.value) is kind
    assert message in caught.value.message


def test_a_table_larger_than_memory_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        stream.write(npy_header((1 << 38, 3), "|u1"))
        stream.truncate(stream.tell() + 3 * (1 << 38))  # sparse: it takes no room on disk
    with pytest.raises(DataError, match="GiB and this machine has"):
        read("npy", tmp_path / "a.npy", target=1)


CIFAR = [
    (b"", "has 0 bytes", IntegrityError),
    (cifar_bytes(np.zeros(3))[0][:-1], "which is not a multiple of 3073 or 3074", IntegrityError),
    (cifar_bytes(np.array([0, 11, 3]))[0], "record 1: label 11, expected 0 to 9", IntegrityError),
    (cifar_bytes(np.array([[0, 0], [20, 4]]))[0], "record 1: label 20, expected 0 to 19", IntegrityError),
]


@pytest.mark.parametrize(("content", "message", "kind"), CIFAR, ids=[message for _, message, _ in CIFAR])
def test_cifar(tmp_path: Path, content: bytes, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(kind) as caught:
        read("cifar", tmp_path)
    assert message in caught.value.message


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _tiff(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF")
    return stream.getvalue()


def _png_of_size(width: int, height: int) -> bytes:
    """A picture whose header declares another size than its pixels have."""
    raw = bytearray(_png(np.zeros((4, 4), np.uint8)))
    raw[16:24] = struct.pack(">II", width, height)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


PICTURES = [
    (b"", "b/1.png is truncated or not a picture", IntegrityError),
    (b"GIF89a" + b"\0" * 40, "b/1.png is truncated or not a picture", IntegrityError),
    (_png(np.zeros((40, 40), np.uint8))[:-30], "b/1.png is truncated or not a picture", IntegrityError),
    (_png_of_size(30_000, 30_000), "b/1.png declares too many pixels", IntegrityError),
    (_png_of_size(9_000, 9_000), "declares too many pixels (9,000 x 9,000", IntegrityError),
    (_tiff(np.zeros((4, 4), np.float32)), "b/1.png has pixels of type F", DataError),
    (_png(np.zeros((4, 5), np.uint8)), "sizes differ", DataError),
]


@pytest.mark.parametrize(
    ("content", "message", "kind"), PICTURES, ids=[f"{i} {row[1]}" for i, row in enumerate(PICTURES)]
)
def test_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str, kind: type[FlctlError]
) -> None:
    for name, raw in (("a", _png(np.zeros((4, 4), np.uint8))), ("b", content)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(raw)
    _refuse_to_allocate(monkeypatch, 1 << 20)
    with pytest.raises(kind) as caught:
        read("image-folder", tmp_path, **({"image_size": "4x4"} if "truncated" in message else {}))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.png", "b/c/1.png"], "are at different folder depths"),
        (["a/1.png"], "only one class"),
        (["a/1.txt"], "has no pictures"),
    ],
)
def test_folders_that_are_no_classes(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(_png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(DataError, match=message):
        read("image-folder", tmp_path)


TEXT = [
    (b"", "is empty", DataError),
    (b"ANN:\nhi\n\nno speaker here\n", "line 4: 'no speaker here' is not a NAME: line", DataError),
    (b"\n\nhi there\n", "line 3: 'hi there' is not a NAME: line", DataError),
    (b"ANN:\nhi\n\xff\n", "line 3: byte 0xff is not UTF-8", DataError),
    (b"ANN:\nh\n", "no speaker of 1 has enough characters", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), TEXT, ids=[message for _, message, _ in TEXT])
def test_text(tmp_path: Path, content: bytes, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(kind) as caught:
        read("text", tmp_path / "a.txt")
    assert message in caught.value.message


def _leaf(change: Callable[[dict], object]) -> bytes:
    content = {"users": ["u", "v"], "num_samples": [2, 1]}
    content["user_data"] = {"u": {"x": [[1, 2], [3, 4]], "y": [0, 1]}, "v": {"x": [[5, 6]], "y": [0]}}
    change(content)
    return json.dumps(content).encode()


LEAF = [
    (b"", "line 1, column 1: Expecting value", IntegrityError),
    (_leaf(lambda c: None)[:-9], "line 1, column 124: Unterminated", IntegrityError),
    (b"[" * 100_000, "is not valid JSON", IntegrityError),
    (b"[1, 2]", "is not in LEAF's JSON format", DataError),
    (_leaf(lambda c: c.pop("users")), "is not in LEAF's JSON format", DataError),
    (_leaf(lambda c: c["users"].append("w")), "3 users, sample counts of 2", IntegrityError),
    (_leaf(lambda c: c.update(num_samples=[2, 5])), "user 'v': 5 samples declared, 1 in x", IntegrityError),
    (_leaf(lambda c: c["user_data"].update(v=3)), "user 'v': expected lists x and y", DataError),
    (_leaf(lambda c: c["user_data"]["u"].update(x=[[1, 2], [3]])), "all equally long", DataError),
    (_leaf(lambda c: c["user_data"]["v"].update(x=[[1]])), "user 'v': samples of shape (1,)", DataError),
    (_leaf(lambda c: c["user_data"]["v"].update(x=[[1, float("nan")]])), "user 'v', row 0, column 1", DataError),
    (_leaf(lambda c: c["user_data"]["v"].update(x=[[1, 1e300]])), "user 'v', row 0, column 1", DataError),
    (_leaf(lambda c: c["user_data"]["v"].update(y=[float("nan")])), "target 'y', row 2: nan is not", DataError),
    (_leaf(lambda c: c["user_data"]["v"].update(y=[[1]])), "sample 0: y is [1]", DataError),
    (
        _leaf(lambda c: c["user_data"]["u"].update(x=["ab", "cd"], y=["ef", "g"])),
        "sample 0: expected a string x",
        DataError,
    ),
    (_leaf(lambda c: c["user_data"]["u"].update(y=[0, 0])), "only one class", DataError),
    (_leaf(lambda c: c.update(users=[], num_samples=[], user_data={})), "holds no samples", DataError),
]


@pytest.mark.parametrize(("content", "message", "kind"), LEAF, ids=[f"{i} {row[1]}" for i, row in enumerate(LEAF)])
def test_leaf(tmp_path: Path, content: bytes, message: str, kind: type[FlctlError]) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(kind) as caught:
        read("leaf", tmp_path / "a.json")
    assert type(caught.value) is kind
    assert message in caught.value.message


def test_a_leaf_user_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(_leaf(lambda c: None))
    with pytest.raises(DataError, match=r"b\.json, user 'u' is in a\.json too"):
        read("leaf", tmp_path)


@pytest.mark.parametrize("reader", ["csv", "npz", "npy", "text", "arff", "parquet", "arrow", "idx", "leaf", "cifar"])
def test_a_file_that_is_not_there(tmp_path: Path, reader: str) -> None:
    (tmp_path / "people.csv").touch()
    with pytest.raises(DataError, match="no such file or folder") as caught:
        read(reader, tmp_path / "peple.csv")
    assert caught.value.hint == "Did you mean 'people.csv'?"


@pytest.mark.parametrize(
    "reader", ["csv", "npz", "npy", "text", "arff", "parquet", "arrow", "idx", "image-folder", "leaf"]
)
def test_a_folder_without_such_files(tmp_path: Path, reader: str) -> None:
    with pytest.raises(DataError, match=r"a folder|holds no|has no|has neither"):
        read(reader, tmp_path)

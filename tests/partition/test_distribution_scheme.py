"""The partition that is written down as a matrix: inline, CSV or .npy, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_schemes import counts

from flctl.errors import ConfigError, DataError
from flctl.partition.partitioner import Rows
from flctl.partition.schemes.distribution import Distribution
from flctl.seeds import rng

LABELS = np.repeat([0, 1, 2], [10, 4, 6])
ROWS = Rows(20, LABELS, LABELS, ("cat", "dog", "cow"))


def dealt(clients=None, **options):
    assignment = Distribution.from_options(options).assign(ROWS, clients, rng(1))
    return counts(assignment, LABELS, 3).tolist()


def test_class_shares_divide_each_class_by_its_column():
    assert dealt(matrix=[[1, 0, 2], [1, 1, 1]]) == [[5, 0, 4], [5, 4, 2]]


def test_a_class_that_nobody_claims_is_left_out():
    assert dealt(matrix=[[1, 0, 1]]) == [[10, 0, 6]]


def test_preassigned_rows_come_first():
    assert dealt(matrix=[[9, 0, 0], [1, 1, 1]], preassigned=2) == [[7, 0, 0], [3, 4, 6]]
    with pytest.raises(DataError, match="class 1 has 4 rows; 3 for each of its clients needs 6"):
        dealt(matrix=[[1, 1, 1], [1, 1, 1]], preassigned=3)


def test_counts_are_row_numbers():
    assert dealt(matrix="3,0,1;2,2,2", values="counts") == [[3, 0, 1], [2, 2, 2]]
    with pytest.raises(DataError, match=r"5 rows of class 1 \('dog'\); there are 4"):
        dealt(matrix=[[0, 3, 0], [0, 2, 0]], values="counts")
    with pytest.raises(DataError, match="needs integers"):
        dealt(matrix=[[0.5, 0, 0]], values="counts")


def test_client_shares_are_label_distributions():
    # Dogs are the scarce ones: 4 rows for a demand of 0.5 bound each client to 8.
    assert dealt(matrix=[[1, 1, 0], [1, 0, 1]], values="client-shares") == [[4, 4, 0], [4, 0, 4]]
    # 4 dogs for a demand of 1/3 + 1/4 bound each client to 6.86, and parts of rows are not given.
    assert dealt(matrix=[[1, 1, 1], [1, 1, 2]], values="client-shares") == [[2, 2, 2], [1, 1, 3]]
    sized = dealt(matrix=[[1, 1, 0], [2, 0, 1]], values="client-shares", sizes=[2, 9])
    assert sized == [[1, 1, 0], [6, 0, 3]]
    with pytest.raises(DataError, match="6 rows of class 1"):
        dealt(matrix=[[0, 1, 0]], values="client-shares", sizes=[6])
    with pytest.raises(DataError, match="row 2 of the matrix is all 0"):
        dealt(matrix=[[0, 1, 0], [0, 0, 0]], values="client-shares")
    with pytest.raises(DataError, match="found 1 size for 2"):
        dealt(matrix=[[0, 1, 0], [1, 0, 0]], values="client-shares", sizes=[3])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8).flatmap(lambda k: st.lists(st.tuples(*[st.floats(0, 1e6)] * 3), min_size=k, max_size=k)))
def test_class_shares_are_exact_to_one_row(matrix):
    found = np.array(dealt(matrix=matrix))
    sums = np.array(matrix).sum(axis=0)
    for code, total in enumerate((10, 4, 6)):
        if sums[code] > 0:
            assert found[:, code].sum() == total
            assert (abs(found[:, code] - np.array(matrix)[:, code] / sums[code] * total) < 1 + 1e-6).all()
        else:
            assert found[:, code].sum() == 0


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".CSV"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"matrix{suffix}"
    if suffix == ".npy":
        np.save(path, [[1, 0, 2], [1, 1, 1]])
    else:
        path.write_text("1,0,2\n\n1, 1,1.0\n")
    assert dealt(matrix=str(path)) == [[5, 0, 4], [5, 4, 2]]
    assert dealt(2, matrix=str(path)) == [[5, 0, 4], [5, 4, 2]]


def test_the_manifest_names_the_file_and_its_digest_but_no_folder(tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_text("1,0,2\n")
    text = json.dumps(Distribution.from_options({"matrix": str(path)}).config.model_dump(mode="json"))
    assert "matrix.csv sha256:" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2]], r"shape \[1, 2\]; expected \[clients, 3\]"),
        ([], "shape"),
        ([[1, 2, 3], [1, 2]], r"have \[2, 3\] values"),
        ([[1, -2, 3]], "row 1, column 2 of the matrix is -2"),
    ],
)
def test_a_wrong_matrix(matrix, message):
    with pytest.raises(DataError, match=message):
        dealt(matrix=matrix)


def test_the_number_of_clients_must_be_that_of_the_rows():
    with pytest.raises(DataError, match="the matrix has 2 rows, and --clients is 3"):
        dealt(3, matrix=[[1, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3\n1,x,3\n", "line 2"),
        ("1,2,3\n1,2\n", "values"),
        ("a,b,c\n1,2,3\n", "line 1"),
        ("1,nan,3\n", "column 2 of the matrix is nan"),
        ("1,inf,3\n", "is inf"),
        ("", "shape"),
    ],
)
def test_a_wrong_csv(tmp_path, content, message):
    path = tmp_path / "m.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        dealt(matrix=str(path))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe1,2,3")
    with pytest.raises(DataError, match=r"m\.csv"):
        dealt(matrix=str(tmp_path / "m.csv"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        dealt(matrix=str(tmp_path / "m.npy"))


def test_a_pickle_is_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a .npy file of numbers"):
        dealt(matrix=str(tmp_path / "m.npy"))


def test_a_header_that_declares_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.ones((1_000_000, 3)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"not a .npy file of numbers"):
        dealt(matrix=str(path))


@pytest.mark.parametrize("options", [{"values": "counts", "preassigned": 1}, {"values": "class-shares", "sizes": [3]}])
def test_options_without_effect_are_refused(options):
    with pytest.raises(ConfigError):
        dealt(matrix=[[1, 1, 1]], **options)


@pytest.mark.parametrize("matrix", [None, 3, [["x", 1, 2]], [[float("nan"), 1, 1]]])
def test_what_is_no_matrix(matrix):
    with pytest.raises(ValidationError):
        Distribution.from_options({"matrix": matrix})

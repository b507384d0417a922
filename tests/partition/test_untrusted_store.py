"""A partition store is untrusted until it was opened: damage is named, and nothing is believed unchecked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import quick, store

from flctl.errors import DataError, FlctlError, IncompatibleError, IntegrityError
from flctl.partition.store import Partition


def edit(directory: Path, change) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def set_in(*keys, value):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_in("columns", "x", "file", value="../../secret.npy"), "not a bare .npy name"),
        (set_in("columns", "x", "file", value="/etc/x.npy"), "not a bare .npy name"),
        (set_in("columns", "x", "file", value="C:x.npy"), "not a bare .npy name"),
        (set_in("columns", "x", "file", value="sub/x.npy"), "not a bare .npy name"),
        (set_in("columns", "x", "file", value="sub\\x.npy"), "not a bare .npy name"),
        (set_in("columns", "x", "file", value="y.npy"), "two columns share a file"),
        (set_in("columns", "x", "file", value="gone.npy"), "is missing"),
        (set_in("columns", "x", "dtype", value="|O"), "dtype"),
        (set_in("columns", "x", "shape", value=[10**15, 2]), "shape"),
        (set_in("columns", "x", "sha256", value="0"), "64 hex digits"),
        (
            set_in("columns", "extra", value={"file": "e.npy", "dtype": "<f4", "shape": [1], "sha256": "0" * 64}),
            "columns",
        ),
        (set_in("clients", value=10**12), "shape"),
        (set_in("clients", value=0), "no clients"),
        (set_in("rows", "train", value=-1), "negative"),
        (set_in("rows", "train", value=8), "shape"),
        (set_in("unknown", value=1), "unknown"),
        (set_in("dataset", "features", value=["f0"]), "features are not one for each"),
        (set_in("dataset", "numeric", value=[2]), "feature that is not there"),
        (set_in("dataset", "numeric", value=[-1]), "feature that is not there"),
        (lambda manifest: manifest["dataset"].update(task="binary", classes=["a"]), "binary task needs two classes"),
        (set_in("dataset", "classes", value=[]), "no classes"),
        (set_in("seed", value="7"), "seed"),
        (set_in("test_fraction", value=1.5), "test_fraction"),
        (set_in("preprocess", "kind", value="feature"), "2 shifts"),
        (set_in("preprocess", "kind", value="channel"), "channel"),
        (set_in("preprocess", value={"kind": "feature", "shift": [0, 0], "scale": [1, 0], "target": None}), "positive"),
        (set_in("preprocess", "target", value={"shift": 0.0, "scale": 1.0}), "target"),
        (set_in("format", value="something else"), "format"),
        (set_in("format", value=None), "format"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, match):
    store(tmp_path / "x")
    edit(tmp_path / "x", change)
    with pytest.raises(IntegrityError, match=match):
        Partition.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "manifest.json is damaged"),
        ("[]", "not a JSON object"),
        ('{"format": "flctl-partition/1"', "manifest.json is damaged"),
        ('{"format": 1, "format": 2}', "twice"),
        ("[" * 100_000, "manifest.json is damaged"),
        ('{"format": "flctl-partition/1", "clients": NaN}', "manifest.json is damaged"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(tmp_path, text, match):
    store(tmp_path / "x")
    (tmp_path / "x" / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match=match):
        Partition.open(tmp_path / "x")


def test_a_huge_manifest_is_not_read(tmp_path):
    store(tmp_path / "x")
    with open(tmp_path / "x" / "manifest.json", "r+b") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="at most"):
        Partition.open(tmp_path / "x")


def test_another_versions_format_is_refused_with_a_sentence(tmp_path):
    store(tmp_path / "x")
    edit(tmp_path / "x", set_in("format", value="flctl-partition/2"))
    with pytest.raises(IncompatibleError, match="'flctl-partition/2'; this version of flctl reads") as caught:
        Partition.open(tmp_path / "x")
    assert caught.value.exit_code == 3


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "does not start like"),
        (b"\x80\x04pickle", "does not start like"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "does not start like"),
        (b"\x93NUMPY\x01\x00\xff\xff", "header of 65535 bytes"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 2), }"), "header that"),
        (header("{'descr': '<f4', 'fortran_order': True, 'shape': (10, 2), }\n"), "header that"),
        (header("{'descr': '|O8', 'fortran_order': False, 'shape': (10, 2), }\n"), "header that"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 2), }\n"), "declares <f4"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-10, 2), }\n"), "header that"),
        (header("__import__('os').abort()\n"), "header that"),
        (
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 2), }\n"),
            "has 71 bytes; its header declares 151",
        ),
    ],
)
def test_a_column_that_is_not_what_the_manifest_says_is_refused(tmp_path, data, match):
    store(tmp_path / "x")
    (tmp_path / "x" / "x.npy").write_bytes(data)
    with pytest.raises(IntegrityError, match=match):
        Partition.open(tmp_path / "x")


@pytest.mark.parametrize("change", [-1, 1, -80])
def test_a_truncated_or_longer_column_is_refused(tmp_path, change):
    store(tmp_path / "x")
    path = tmp_path / "x" / "x.npy"
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(IntegrityError, match=r"x\.npy of partition x has .* bytes; its header declares"):
        Partition.open(tmp_path / "x")


def test_a_column_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path):
    partition = store(tmp_path / "x")
    os.truncate(tmp_path / "x" / "x.npy", 130)
    with pytest.raises(IntegrityError, match="became shorter"):
        partition.train(2)


@pytest.mark.parametrize("name", ["x.npy", "manifest.json"])
def test_a_link_out_of_the_store_is_refused(tmp_path, name):
    store(tmp_path / "x")
    (tmp_path / "x" / name).rename(tmp_path / name)
    (tmp_path / "x" / name).symlink_to(tmp_path / name)
    with pytest.raises(FlctlError, match=r"not a plain file|not a partition"):
        Partition.open(tmp_path / "x")


@pytest.mark.parametrize(
    "bounds",
    [
        [[0, 3, 4], [4, 6, 7], [7, 9, 11]],
        [[0, 3, 4], [4, 3, 7], [7, 9, 10]],
        [[0, 3, 4], [5, 6, 7], [7, 9, 10]],
        [[1, 3, 4], [4, 6, 7], [7, 9, 10]],
        [[0, 2, 4], [4, 6, 7], [7, 9, 10]],
        [[0, 3, 4], [4, 6, 2**62], [2**62, 2**62, 10]],
        [[0, 3, -1], [-1, 6, 7], [7, 9, 10]],
    ],
)
def test_bounds_that_do_not_fit_are_refused(tmp_path, bounds):
    store(tmp_path / "x")
    path = tmp_path / "x" / "bounds.npy"
    path.write_bytes(path.read_bytes()[:128] + np.array(bounds, "<i8").tobytes())
    with pytest.raises(IntegrityError, match="bounds"):
        Partition.open(tmp_path / "x")


def test_ids_that_are_not_text_are_refused(tmp_path):
    store(tmp_path / "x")
    path = tmp_path / "x" / "client_ids.npy"
    path.write_bytes(path.read_bytes()[:128] + np.full(3, 0x110000, "<u4").tobytes())
    with pytest.raises(IntegrityError, match="not text"):
        Partition.open(tmp_path / "x")


def test_any_flipped_byte_is_found_by_the_digests(tmp_path):
    partition = store(tmp_path / "x")
    for name in ("x", "y", "source_row", "client_ids", "bounds"):
        path = tmp_path / "x" / f"{name}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=rf"{name}\.npy changed since it was written"):
            partition.verify_digests()
        path.write_bytes(whole)
    partition.verify_digests()


@given(st.data())
@quick
def test_no_damage_to_the_manifest_or_a_header_escapes_the_error_tree(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("s") / "x"
    store(root)
    path = root / data.draw(st.sampled_from(["manifest.json", "x.npy", "bounds.npy", "client_ids.npy"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        partition = Partition.open(root)
        partition.train(0)
        list(partition.client_ids)
    except FlctlError:
        pass


@pytest.mark.parametrize("kind", ["missing", "file", "empty directory"])
def test_what_is_no_partition_is_refused_with_what_to_do(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    elif kind == "empty directory":
        path.mkdir()
    with pytest.raises(DataError, match="is not a partition") as caught:
        Partition.open(path)
    assert "flctl partition" in caught.value.hint

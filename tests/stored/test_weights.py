"""Weights from elsewhere are read when they are safetensors, and refused with a reason when they are not."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from flctl.errors import DataError, IntegrityError
from flctl.stored.weights import MAX_HEADER, read_weights, unprefixed


@pytest.fixture
def tensors():
    return {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1.5, -2.0])}


def test_tensors_come_back_by_name(tmp_path, tensors):
    save_file(tensors, tmp_path / "m.safetensors")
    found = read_weights(tmp_path / "m.safetensors")
    assert set(found) == set(tensors)
    assert found["layer.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_half_precision_is_widened_and_integers_are_kept(tmp_path):
    named = {"half": torch.tensor([1.5]).bfloat16(), "count": torch.tensor(7)}
    save_file(named, tmp_path / "m.safetensors")
    found = read_weights(tmp_path / "m.safetensors")
    assert (found["half"].dtype, found["half"].tolist()) == (np.float32, [1.5])
    assert (found["count"].dtype, found["count"].item()) == (np.int64, 7)


def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path):
    empty = save({"a": torch.zeros(1)})
    header = empty[8 : 8 + int.from_bytes(empty[:8], "little")].rstrip().ljust(0x0280)
    path = tmp_path / "m.safetensors"
    path.write_bytes((0x0280).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_weights(path)["a"].tolist() == [0.0]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_refused_unopened(tmp_path, protocol):
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(IntegrityError, match="it is a pickle, and was not opened"):
        read_weights(path)


def test_a_torch_save_file_is_refused_unopened(tmp_path, tensors):
    torch.save(tensors, tmp_path / "m.safetensors")
    with pytest.raises(IntegrityError, match="it is a pickle"):
        read_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("declared", [MAX_HEADER + 1, 2**40, 2**64 - 1])
def test_a_huge_declared_header_is_refused(tmp_path, declared):
    path = tmp_path / "m.safetensors"
    path.write_bytes(declared.to_bytes(8, "little") + b"{}")
    with pytest.raises(IntegrityError, match=f"declares a header of {declared}"):
        read_weights(path)


def test_a_huge_declared_tensor_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(IntegrityError, match="not a complete safetensors file"):
        read_weights(path)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.binary(max_size=40))
def test_no_truncation_or_garbage_is_read(tmp_path_factory, cut, garbage):
    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    data = save({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    path.write_bytes(data[: cut % len(data)])
    with pytest.raises(IntegrityError):
        read_weights(path)
    path.write_bytes(b"\xff" + garbage)
    with pytest.raises(IntegrityError):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.safetensors does not exist"):
        read_weights(tmp_path / "none.safetensors")


def test_a_wrappers_prefix_is_taken_off_only_when_all_else_fits():
    named = {"module.a": np.zeros(1), "module.b": np.zeros(1)}
    assert unprefixed(named, ["a", "b"])[1] == "module."
    assert set(unprefixed(named, ["a", "b"])[0]) == {"a", "b"}
    assert unprefixed(named, ["a"]) == (named, None)
    assert unprefixed(named, ["module.a", "module.b"]) == (named, None)

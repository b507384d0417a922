"""Checkpoints are whole or refused, and hold all that later rounds depend on."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import make_run, train_run

from flctl.errors import IncompatibleError, IntegrityError
from flctl.run.checkpoint import Checkpoints, read_tensors
from flctl.types import Checkpoint


@pytest.fixture
def saved(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run")
    model = run.build_model()
    rng = np.random.default_rng(0)
    checkpoint = Checkpoint(
        round=20,
        params={"params": rng.normal(size=15).astype(np.float32)},
        states={"strategy": {"server.m": rng.normal(size=15).astype(np.float32)}, "transform.dp": {}},
        progress={"best_round": 3, "best_value": 0.5},
        config_digest="sha256:c",
        partition_digest="sha256:p",
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(checkpoint, model)
    return checkpoints, checkpoint, model


def test_a_checkpoint_comes_back_bit_for_bit(saved):
    checkpoints, checkpoint, model = saved
    back = checkpoints.load(20, model)
    np.testing.assert_array_equal(back.params["params"], checkpoint.params["params"])
    np.testing.assert_array_equal(back.states["strategy"]["server.m"], checkpoint.states["strategy"]["server.m"])
    assert back.states["transform.dp"] == {}
    same = ("round", "progress", "config_digest", "partition_digest")
    assert [getattr(back, name) for name in same] == [getattr(checkpoint, name) for name in same]


def test_plain_torch_loads_the_model(saved):
    checkpoints, checkpoint, model = saved
    tensors = load_file(checkpoints.path(20) / "model.safetensors")
    model.module.load_state_dict(tensors)
    flat = torch.cat([p.reshape(-1) for p in model.module.parameters()]).detach().numpy()
    np.testing.assert_array_equal(flat, checkpoint.params["params"])


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
@pytest.mark.parametrize("where", [0, 10, 0.5, -2])
def test_any_flipped_byte_is_found(saved, name, where):
    checkpoints, _, model = saved
    path = checkpoints.path(20) / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * where) if isinstance(where, float) else where] ^= 0x01
    path.write_bytes(bytes(data))
    with pytest.raises((IntegrityError, IncompatibleError)):
        checkpoints.load(20, model)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
def test_a_truncated_or_missing_file_is_found(saved, name):
    checkpoints, _, model = saved
    path = checkpoints.path(20) / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError):
        checkpoints.load(20, model)
    path.unlink()
    with pytest.raises(IntegrityError):
        checkpoints.load(20, model)


def test_a_manifest_may_not_name_other_files(saved):
    checkpoints, _, model = saved
    path = checkpoints.path(20) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../secret"] = manifest["files"].pop("state.safetensors")
    path.write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="changed after"):
        checkpoints.load(20, model)


def test_a_checkpoint_of_another_model_is_refused(saved, toy, tmp_path):
    checkpoints, _, _ = saved
    run, _ = make_run(toy, tmp_path / "other", "model=mlp")
    with pytest.raises(IncompatibleError):
        checkpoints.load(20, run.build_model())


def test_another_format_is_refused_with_a_sentence(saved):
    checkpoints, _, model = saved
    path = checkpoints.path(20) / "manifest.json"
    path.write_text(path.read_text().replace("flctl-checkpoint/1", "flctl-checkpoint/2"))
    with pytest.raises(IncompatibleError, match=r"flctl-checkpoint/2.*reads 'flctl-checkpoint/1'"):
        checkpoints.load(20, model)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"w": [1.0]}),
        b"PK\x03\x04 a zip, as torch.save writes",
        (1 << 40).to_bytes(8, "little") + b"{}",
        b"",
        b"\x02\x00\x00\x00\x00\x00\x00\x00{}junk",
        (70).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}',
    ],
)
def test_what_is_no_safetensors_file_is_refused(data):
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        read_tensors(data, "model.safetensors")


def test_a_torn_down_checkpoint_is_not_listed(saved):
    checkpoints, checkpoint, model = saved
    checkpoints.save(replace(checkpoint, round=30), model)
    (checkpoints.path(30) / "manifest.json").unlink()
    assert checkpoints.rounds() == [20]
    checkpoints.remove(30)
    assert not checkpoints.path(30).exists()


def test_which_checkpoints_are_kept(toy, tmp_path):
    train_run(toy, tmp_path / "all", "rounds=7", "checkpoint.every=2", "checkpoint.seconds=0")
    best = json.loads((tmp_path / "all" / "summary.json").read_text())["best"]["round"]
    assert set(Checkpoints(tmp_path / "all" / "checkpoints").rounds()) == {0, 2, 4, 6, 7, best}
    train_run(toy, tmp_path / "few", "rounds=7", "checkpoint.every=2", "checkpoint.seconds=0", "checkpoint.keep=2")
    assert set(Checkpoints(tmp_path / "few" / "checkpoints").rounds()) == {6, 7, best}

"""A layer that stands in a model under several names: refused by what cannot train it, trained by what can."""

import numpy as np
import pytest
import torch
from support import checkpoint_digests
from torch import nn

from flctl.cli import run as cli
from flctl.executors.layer_chain import chain_of
from flctl.executors.stacking_trial import shares_layers

MODELS = """
from torch import nn


class TwoNames(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.first = nn.Linear(data.shape[0], data.shape[0])
        self.again = self.first
        self.head = nn.Linear(data.shape[0], data.outputs)

    def forward(self, x):
        return self.head(self.again(self.first(x)))


def two_names(data):
    return TwoNames(data)


def in_a_sequential(data):
    layer = nn.Linear(data.shape[0], data.shape[0])
    return nn.Sequential(*[layer] * 3, nn.Linear(data.shape[0], data.outputs))
"""


def test_a_layer_under_two_names_is_found():
    layer = nn.Linear(2, 2)
    assert shares_layers(nn.Sequential(layer, nn.ReLU(), layer))
    assert not shares_layers(nn.Sequential(layer, nn.ReLU()))
    assert chain_of(nn.Sequential(layer, layer)) is None


@pytest.mark.parametrize("model", ["two_names", "in_a_sequential"])
def test_a_model_that_shares_a_layer_trains_as_one_client_after_the_other(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODELS)
    assert cli(["partition", "iris", "--clients", "4", "--out", "parts"]) == 0
    common = ["train", "parts", "--model", f"nets.py:{model}", "--rounds", "2", "--seed", "3"]
    assert cli([*common, "--out", "chosen"]) == 0
    assert cli([*common, "-o", "engine.executor=sequential", "--out", "alone"]) == 0
    chosen, alone = (checkpoint_digests(tmp_path / name) for name in ("chosen", "alone"))
    assert chosen.keys() == alone.keys()
    weights = [_weights(tmp_path / name / "checkpoints" / "round-00002") for name in ("chosen", "alone")]
    np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-6)


def _weights(checkpoint):
    from safetensors.torch import load_file

    return torch.cat([vector.flatten() for _, vector in sorted(load_file(checkpoint / "model.safetensors").items())])

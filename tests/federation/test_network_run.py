"""A run over a hub and three sites: approval, training, and the bits of its simulation."""

from __future__ import annotations

import pytest
from support.network import Network

from flctl.cli import run


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    made = Network(tmp_path_factory.mktemp("network"))
    with made.hub:
        yield made


def train(network, out, data="fed", *more):
    words = [
        "train",
        str(network.folder / data),
        "--strategy",
        "fedavg",
        "--rounds",
        "2",
        "--lr",
        "0.1",
        "--out",
        str(out),
    ]
    return run([*words, *more])


def remote(network):
    return ("-o", f"engine.home={network.coordinator.path}", "--purpose", "a test")


def model_of(path):
    (newest,) = sorted((path / "checkpoints").glob("*2*/model.safetensors"))
    return newest.read_bytes()


@pytest.mark.slow
def test_a_network_run_has_the_bits_of_its_simulation(network, tmp_path):
    with network.serving():
        assert train(network, tmp_path / "net", "fed", *remote(network)) == 0
    assert train(network, tmp_path / "twin", "twin", "-o", "engine.alone=true") == 0
    assert model_of(tmp_path / "net") == model_of(tmp_path / "twin")

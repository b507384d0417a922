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


@pytest.mark.slow
def test_secure_aggregation_over_the_hub_signs_with_the_sites_identities(network, tmp_path):
    pytest.importorskip("flctl_secagg")
    options = (
        "--rounds",
        "1",
        "--aggregator",
        "secagg",
        "-o",
        "aggregator.minimum=3",
        "-o",
        "aggregator.transcript=true",
    )
    with network.serving():
        assert train(network, tmp_path / "masked", "fed", *remote(network), *options) == 0
    roster = network.enrolment.roster()
    operator = tmp_path / "operator.pub"
    operator.write_text(roster.operator.hex())
    assert run(["secagg", "verify", str(tmp_path / "masked"), "--operator", str(operator)]) == 0
    for site, home in network.homes.items():
        assert (home.path / "secagg" / "ledger.sqlite").is_file(), site
    assert not list((tmp_path / "masked" / "secagg").glob("*.key"))


@pytest.mark.slow
def test_active_secure_aggregation_is_refused_while_the_operators_key_lies_at_the_hub(network, tmp_path, capsys):
    pytest.importorskip("flctl_secagg")
    options = (
        "--aggregator",
        "secagg",
        "-o",
        "aggregator.minimum=3",
        "-o",
        "aggregator.mode=active",
        "-o",
        "aggregator.differing=warn",
    )
    assert train(network, tmp_path / "active", "fed", *remote(network), *options) == 3
    assert "the operator's key lies at the hub" in capsys.readouterr().err

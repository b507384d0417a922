"""A run over a hub and three sites: approval, training, and the bits of its simulation."""

from __future__ import annotations

import contextlib
import json
import threading

import numpy as np
import pytest
from support.network import CANARY, Network

from flctl.cli import run
from flctl.cli.demo_network import POLICY
from flctl.federation.content import FailureBody
from flctl.federation.coordinator.collecting import Collecting
from flctl.federation.coordinator.decisions import Decisions
from flctl.federation.coordinator.orders import Orders
from flctl.federation.member import FederationMember
from flctl.federation.site.agent import locked
from flctl.federation.site.doctor import examine
from flctl.federation.site.journal import Journal
from flctl.federation.site.policy_gate import PolicyGate
from flctl.federation.site.steps import Steps
from flctl.federation.site.worker import SiteWorker
from flctl.plugins.registry import Registry


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
    assert files_with_canary(network.homes["trinity"].path) == ["data/x.npy"]  # the search finds it where it is
    assert files_with_canary(network.hub.folder, tmp_path / "net", network.operator.path) == []
    assert not any(f"{CANARY:.4f}" in str(gate.events) for gate in network.gates.values())


def files_with_canary(*folders):
    """Files with the canary in binary or as text, and decompressed or sealed content as it lies there."""
    texts = [CANARY.tobytes(), np.float64(CANARY).tobytes(), f"{CANARY:.4f}".encode()]
    return [
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    ]


@pytest.mark.slow
def test_an_error_at_a_site_leaves_as_a_kind_and_one_fixed_sentence(network, tmp_path, monkeypatch, capsys):
    def fails(self, request, work, memory):
        raise ValueError(f"row 17 of data/x.npy has the age {CANARY:.4f}")

    monkeypatch.setattr(SiteWorker, "answer", fails)
    seen = []
    opened = FailureBody.read
    monkeypatch.setattr(FailureBody, "read", lambda body: seen.append(dict(body)) or opened(body))
    with network.serving():
        code = train(network, tmp_path / "net", "fed", *remote(network))
    assert code == 1
    failure = {"kind": "exception", "reason": "", "sentence": "Local training failed at the site."}
    assert seen
    assert all(body == {"failure": failure} for body in seen)
    assert f"{CANARY:.4f}" not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_an_order_that_nobody_approved_is_refused_before_anything_is_decrypted(network, tmp_path, monkeypatch, capsys):
    """The coordinator goes ahead without the sites: each of them refuses, records it and stays up."""
    opened, gates = [], dict(network.gates)
    unseal = FederationMember.open_blob
    monkeypatch.setattr(Decisions, "approved", lambda self, wait=0.0: True)
    monkeypatch.setattr(
        FederationMember, "open_blob", lambda self, *words: opened.append(words[-1].name) or unseal(self, *words)
    )
    for site, home in network.homes.items():
        home.policy.write_text(POLICY.replace("allow: ", "differing: allow\nallow: "))
        member = network.member(site)
        member.greet()
        network.gates[site] = PolicyGate.open(home, member, Registry(), Journal.open(home.journal))
    steps = {site: len(network.gates[site].journal.since(0)) for site in network.sites}
    try:
        with network.serving():
            code = train(network, tmp_path / "net", "fed", *remote(network))
            run_name = json.loads((tmp_path / "net" / "federation" / "run.json").read_text())["run"]
            assert code == 1
            assert run(["site", "try", run_name, "--home", str(network.homes["trinity"].path)]) == 0
        assert "denied" in capsys.readouterr().err
        for site in network.sites:
            lines = [line for line in network.gates[site].audit.lines() if line.facts.get("run") == run_name]
            assert [line.kind for line in lines] == ["asked", "planned", "refused"]
            assert lines[-1].facts["reason"] == "plan-not-approved"
            assert len(network.gates[site].journal.since(0)) == steps[site]
    finally:
        network.gates.update(gates)
    assert set(opened) == {"plan"}


@pytest.mark.slow
def test_one_process_at_a_time_uses_a_home(network):
    home = str(network.homes["trinity"].path)
    with locked(network.homes["trinity"]):
        assert run(["site", "work", "--once", "--home", home]) == 3
    assert run(["site", "work", "--once", "--home", home]) == 0


@pytest.mark.slow
def test_a_site_is_examined_with_its_hub_and_without(network):
    home = network.homes["trinity"]
    found = {finding.name: finding.state for finding in examine(home)}
    assert {name for name, state in found.items() if state == "failed"} == set()
    assert {"keys", "proxy", "name resolution", "tls", "hub", "clock", "roster", "worker network", "data"} <= set(found)
    network.hub.stop()
    try:
        without = {finding.name: finding.state for finding in examine(home)}
    finally:
        network.hub.start()
    assert without["tls"] == "failed"
    assert without["data"] == "ok"


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


class Killed(BaseException):
    """The end of a process at that instant, as far as its files are concerned."""


def killed_once(monkeypatch, owner, name, *, after):
    """Has the method end its thread, once: before it does anything, or `after` it."""
    method, killed = getattr(owner, name), threading.Event()

    def ending(self, *arguments, **named):
        if killed.is_set():
            return method(self, *arguments, **named)
        killed.set()
        if after:
            method(self, *arguments, **named)
        raise Killed

    monkeypatch.setattr(owner, name, ending)
    return killed


def immortal(network, site, done):
    """Serves a site with one agent after the other, as a service manager would, until `done`."""
    while not done.is_set():
        agent = network.agent(site)
        threading.Thread(target=lambda agent=agent: (done.wait(), agent.stop()), daemon=True).start()
        with contextlib.suppress(Killed):
            agent.serve()
        agent.close()


KILLS = {
    "agent before its claim": (Journal, "claim", False),
    "agent between claim and outbox": (Steps, "_keep", False),
    "agent between outbox and upload": (Steps, "_keep", True),
    "agent after its upload": (Steps, "_sent", True),
    "coordinator before it posts": (Orders, "post_tasks", False),
    "coordinator after it posted": (Orders, "post_tasks", True),
    "coordinator with a reply in hand": (Collecting, "_fetched", True),
}


@pytest.mark.slow
def test_a_killed_part_that_comes_back_leaves_the_bits_as_they_are(network, tmp_path, monkeypatch):
    """Each part is killed once in its turn; the hub is restarted beside it."""
    done, out = threading.Event(), tmp_path / "net"
    threads = [threading.Thread(target=immortal, args=(network, site, done)) for site in network.sites]
    killed = {name: killed_once(monkeypatch, owner, at, after=after) for name, (owner, at, after) in KILLS.items()}
    for thread in threads:
        thread.start()
    try:
        words = ("fed", *remote(network))
        for attempt in range(len(KILLS) + 1):
            if attempt:
                network.hub.stop()
                network.hub.start()
            resumed = ["train", "--resume", str(out)]
            if (run(resumed) if attempt else train(network, out, *words)) == 0:
                break
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert [name for name, event in killed.items() if not event.is_set()] == []
    assert train(network, tmp_path / "twin", "twin", "-o", "engine.alone=true") == 0
    assert model_of(out) == model_of(tmp_path / "twin")

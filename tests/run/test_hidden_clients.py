"""Numbers of single clients under an aggregator that hides them: refused, or disclosed by name in the output."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from support import Hidden, make_run, train_run, untimed_lines

import flctl
from flctl.cli import plot, session
from flctl.cli.eval import arguments, job
from flctl.cli.export import job as export
from flctl.cli.hidden import refuse_personal
from flctl.cli.predict import job as predict
from flctl.cli.runs import replay
from flctl.client.memory_store import MemoryStore
from flctl.errors import IncompatibleError
from flctl.plugins.registry import Registry
from flctl.prediction.predictor import load_predictor
from flctl.prediction.rows import RowOptions
from flctl.report.evaluation import as_data
from flctl.stored.load import assess, from_run


class Plugin:
    @staticmethod
    @flctl.hookimpl
    def flctl_aggregators():
        return [Hidden]


@pytest.fixture
def registry():
    made = Registry()
    made.add(Plugin(), "hidden")
    return made


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_client_memory_is_for_its_owner_alone(toy, tmp_path):
    """SCAFFOLD's c_k in records.bin is what the client sent, divided by its steps and learning rate."""
    old = os.umask(0o022)
    try:
        result = train_run(toy, tmp_path / "run", "strategy=scaffold", "rounds=1")
    finally:
        os.umask(old)
    files = [result.directory.memory, *result.directory.memory.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files} == {0}
    for path in files:
        path.chmod(0o755)  # a run of an older version is restricted when it is opened
    store = MemoryStore(result.directory.memory, toy.clients, {"control": 15})
    store.require(1)
    store.close()
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files} == {0}


def test_metrics_of_single_clients_are_refused_before_the_run_or_stated_in_each_round(toy, tmp_path, registry):
    chosen = ("aggregator=hidden", "eval.per_client=true", "rounds=1")
    with pytest.raises(IncompatibleError, match=r"eval.per_client evaluates single clients, and aggregator 'hidden'"):
        make_run(toy, tmp_path / "refused", *chosen, registry=registry)
    result = train_run(toy, tmp_path / "told", *chosen, "eval.disclose_clients=true", registry=registry)
    (line,) = untimed_lines(result.directory.path)
    assert "accuracy_worst_decile" in line
    assert line["notes"] == ["eval.disclose_clients: single clients were evaluated, which aggregator 'hidden' hides"]
    plain = train_run(toy, tmp_path / "plain", *chosen[1:])
    assert untimed_lines(plain.directory.path)[0]["notes"] == []


def test_a_picture_of_a_metric_over_clients_is_refused_or_disclosed(toy, tmp_path, registry, capsys, monkeypatch):
    chosen = ("aggregator=hidden", "eval.per_client=true", "eval.disclose_clients=true", "rounds=1")
    path = train_run(toy, tmp_path / "run", *chosen, registry=registry).directory.path
    picture = tmp_path / "worst.svg"
    monkeypatch.setattr(session, "current_registry", lambda: registry)
    told = {"metric": "accuracy_worst_decile", "out": picture}
    with pytest.raises(IncompatibleError, match="accuracy_worst_decile is a number over single clients"):
        plot.curves([path], **told)
    assert not picture.exists()
    plot.curves([path], **told, disclose=True)
    assert "--disclose: accuracy_worst_decile is shown, and the aggregator of" in capsys.readouterr().err
    plot.curves([path], out=tmp_path / "central.svg")
    assert "disclose" not in capsys.readouterr().err


def test_a_replay_of_one_client_is_refused_or_says_that_it_discloses(toy, tmp_path, registry, monkeypatch):
    result = train_run(toy, tmp_path / "run", "aggregator=hidden", "rounds=2", registry=registry)
    opened = make_run(toy, tmp_path / "again", "aggregator=hidden", "rounds=2", registry=registry)
    monkeypatch.setattr(replay, "open_stored", lambda path: (opened[0], result.directory))
    with pytest.raises(IncompatibleError, match="a replay shows one client's loss, and aggregator 'hidden'"):
        replay.replay_client(tmp_path / "run", 2, "3")
    found = replay.replay_client(tmp_path / "run", 2, "3", disclose=True)
    assert (found["disclosed"], found["failed"]) == (True, None)
    assert found["loss"] > 0


def test_an_evaluation_withholds_numbers_over_clients_unless_they_are_disclosed(toy, tmp_path, registry):
    result = train_run(toy, tmp_path / "run", "aggregator=hidden", "rounds=1", registry=registry)
    subject = from_run(result.directory.path, "last", None, registry)
    request = arguments.EvalRequest(
        (), "last", None, None, None, None, None, None, (), None, None, None, arguments.TrainedRowsChoice.refuse
    )
    with pytest.raises(IncompatibleError, match=r"numbers of single clients of .*: its aggregator 'hidden' hides"):
        job.disclosed(subject, request, per_client=True, disclose=False)
    shown = {}
    for disclose in (False, True):
        model = assess(job.disclosed(subject, request, per_client=False, disclose=disclose))
        (shown[disclose],) = as_data([model], [], "accuracy", per_client=False, confusion=False)["runs"]
    assert (shown[False]["federated"], shown[False]["by_size"]) == ({}, [])
    assert shown[False]["central"] == shown[True]["central"]
    assert np.isfinite(shown[True]["federated"]["accuracy"]["worst_decile"])
    assert "left out: aggregator 'hidden' hides clients" in shown[False]["notes"][-1]
    assert (
        shown[True]["notes"][-1] == "--disclose: the output has metrics over clients, which aggregator 'hidden' hides"
    )


def test_a_personal_model_is_one_client_s_and_refused_unless_disclosed(toy, tmp_path, registry, monkeypatch):
    result = train_run(toy, tmp_path / "run", "aggregator=hidden", "strategy=ditto", "rounds=1", registry=registry)
    path, rows, out = result.directory.path, tmp_path / "x.npy", tmp_path / "out"
    np.save(rows, toy.read_raw("x", 0, 3))
    assert not refuse_personal(load_predictor(path, "last", None, registry), registry, disclose=False)
    for job_of in (export, predict):
        monkeypatch.setattr(job_of, "current_registry", lambda: registry)
    plain = export.ExportRequest(path, out, "torch", "last", "3")
    asked = predict.PredictRequest(path, str(rows), str(tmp_path / "p.csv"), "last", "3", RowOptions(), None)
    with pytest.raises(
        IncompatibleError, match="personal model of client '3' is one client's, and aggregator 'hidden'"
    ):
        export.run(plain)
    with pytest.raises(IncompatibleError, match="personal model of client '3'"):
        predict.run(asked, as_json=False)
    assert not out.exists()
    assert export.run(replace(plain, disclose=True)).data()["disclosed"] is True
    assert "--disclose: a model of one client" in predict.run(replace(asked, disclose=True), as_json=False).notes[-1]

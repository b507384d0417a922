"""`flctl bench`: a floor that computes what flctl computes, turns that are fair, and figures that follow from them."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flctl.cli import run as cli
from flctl.config.load import load
from flctl.errors import FlctlError
from flctl.machine import facts
from flctl.performance import benchmark as contests
from flctl.performance import workloads
from flctl.performance.benchmark import Repeats, agreement, paired
from flctl.performance.hand_written_loop import HandWrittenLoop, module_for
from flctl.performance.workloads import WORKLOADS, make_partition
from flctl.plugins.registry import Registry
from flctl.run.run import Run

START = np.zeros(2, np.float32)


@pytest.fixture
def tiny(monkeypatch):
    """The workloads with a handful of clients."""
    small = {name: replace(one, clients=6, cohort=3, rows=12) for name, one in WORKLOADS.items()}
    monkeypatch.setattr(workloads, "WORKLOADS", small)
    return small


def said(capsys, *arguments):
    code = cli(["bench", *arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    return code, answer.get("data") or answer["error"]


def test_each_executor_that_can_is_compared_with_the_floor(tiny, capsys):
    code, told = said(capsys, "--rounds", "2")
    assert code == 0
    assert [result["workload"] for result in told["results"]] == ["softmax", "2nn"]
    assert "flctl-bench-" not in json.dumps(told)
    for result in told["results"]:
        rows = {row["executor"]: row for row in result["rows"]}
        assert set(rows) == {"shared", "stacked", "fused", "vmap", "sequential"}
        assert {name for name, row in rows.items() if row["chosen"]} == {"shared"}
        assert result["repeats"] == 2
        assert 0 <= result["agreement"]["middle"] <= contests.TOLERANCE
        for row in rows.values():
            if row["reason"] is None:
                assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
                # Each ratio is one of the floor's times over one of these.
                assert row["ratio"]["high"] <= result["floor"]["high"] / row["seconds"]["low"]
                assert row["ratio"]["low"] >= result["floor"]["low"] / row["seconds"]["high"]
            else:
                assert (row["seconds"], row["ratio"]) == (None, None)


def test_convolutions_are_compared_where_they_are_asked_for(tiny, capsys):
    assert cli(["bench", "--workload", "cnn", "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "fused (chosen)" in text
    assert "shared cannot train it: the model is not a plain list" in text


def test_machine_facts_name_neither_the_machine_nor_its_folders():
    told = facts()
    assert set(told) == {"cores", "processor", "system", "python", "torch", "numpy"}
    assert platform.node() not in map(str, told.values())
    assert str(Path.home()) not in json.dumps(told)


def test_an_unknown_workload_is_refused(capsys):
    code, error = said(capsys, "--workload", "gpt")
    assert (code, error["hint"]) == (2, "Known: softmax, 2nn, cnn.")


def make_run(workload, path):
    registry = Registry()
    partition = make_partition(workload, path / "parts")
    config = load(registry, overrides=[f"data={partition.path.as_posix()}", *workload.settings()]).config
    return Run.build(config, registry, partition, path / "memory")


def test_a_round_of_the_floor_is_the_formula(tmp_path):
    """w - lr sum_k (n_k / n) grad_k, in float64, where each client takes one step on all its rows."""
    workload = replace(WORKLOADS["softmax"], clients=5, cohort=5, rows=8, batch_size=8, lr=0.3)
    run = make_run(workload, tmp_path)
    floor = HandWrittenLoop(run, workload)
    start = run.build_model().read()["params"].astype(np.float64)
    x, y = (np.concatenate(column) for column in zip(*map(run.partition.train, range(5)), strict=True))
    weight, bias = start[:600].reshape(10, 60), start[600:]
    logits = x.astype(np.float64) @ weight.T + bias
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    error = (share - np.eye(10)[y]) / len(y)  # clients of equal size: their mean is the mean of all rows
    gradient = np.concatenate([(error.T @ x).ravel(), error.sum(axis=0)])
    assert floor.play() > 0
    assert floor.params() == pytest.approx(start - 0.3 * gradient, abs=1e-6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_floors_modules_are_the_models_they_stand_for(name, tmp_path):
    workload = replace(WORKLOADS[name], clients=2, cohort=2, rows=10)
    run = make_run(workload, tmp_path)
    model = run.build_model()
    parameters = list(module_for(workload.model).parameters())
    assert [tuple(p.shape) for p in parameters] == [tuple(p.shape) for p in model.module.parameters()]


class Told:
    """A contender that says when it plays, and moves its model by `step` a round."""

    def __init__(self, name, heard, step=1.0):
        self.name, self.heard, self.step, self.model = name, heard, step, START

    def play(self):
        self.heard.append(self.name)
        self.model = self.model + np.float32(self.step)
        return float(len(self.heard))

    def params(self):
        return self.model

    def restart(self, model):
        self.model = model


def test_contenders_warm_up_and_take_turns():
    heard = []
    contenders = {name: Told(name, heard) for name in ("floor", ("a", 1), ("b", 2))}
    times, agreed = paired(contenders, 2, START)
    names = ["floor", ("a", 1), ("b", 2)]
    assert heard == [*names, *names[1:], names[0], names[2], *names[:2]]
    assert times == {"floor": [6.0, 8.0], ("a", 1): [4.0, 9.0], ("b", 2): [5.0, 7.0]}
    assert (agreed.middle, agreed.worst) == (0, 0)


def test_the_number_of_repeats_follows_the_clock(monkeypatch):
    heard = []
    monkeypatch.setattr(contests, "BUDGET", 0.0)
    times, _ = paired({"floor": Told("floor", heard)}, None, START)
    assert len(times["floor"]) == contests.FEWEST
    monkeypatch.setattr(contests, "BUDGET", 1e9)
    times, _ = paired({"floor": Told("floor", heard)}, None, START)
    assert len(times["floor"]) == contests.MOST


@pytest.mark.parametrize("step", [1.01, float("nan"), 0.0])
def test_a_contender_that_computes_something_else_is_refused(step):
    contenders = {"floor": Told("floor", []), ("shared", 2): Told("a", [], step)}
    with pytest.raises(FlctlError, match=r"shared \(2 workers\) does not match the hand-written loop"):
        paired(contenders, 3, START)


def test_models_that_did_not_move_prove_nothing():
    with pytest.raises(FlctlError, match="does not match the hand-written loop"):
        paired({"floor": Told("floor", [], 0.0), ("shared", 1): Told("a", [], 0.0)}, 3, START)


def test_one_tipped_relu_is_no_other_model():
    name = ("fused", 1)
    assert agreement([{name: 1e-6}, {name: 0.01}, {name: 2e-6}]).worst == 0.01
    with pytest.raises(FlctlError, match=r"by 0\.2 in the worst"):
        agreement([{name: 1e-6}, {name: 0.2}, {name: 2e-6}])


def test_a_spread_is_of_its_values():
    assert Repeats.of([3.0, 1.0, 2.0, 8.0]) == Repeats(2.5, 1.0, 8.0)


@pytest.mark.slow
def test_workers_take_part_too(tiny, capsys):
    _, told = said(capsys, "--workload", "2nn", "--rounds", "1", "--workers", "2")
    assert ("shared", 2) in {(row["executor"], row["workers"]) for row in told["results"][0]["rows"]}


@pytest.mark.slow
def test_the_real_sizes_run(capsys):
    code, told = said(capsys, "--rounds", "1", "--workload", "softmax", "--workload", "2nn", "--workload", "cnn")
    assert (code, len(told["results"])) == (0, 3)

"""What a resume may change is asked anew: stopping rules, and how many checkpoints are kept."""

import json
import signal
from types import SimpleNamespace
from typing import ClassVar

import pytest
from support import Given, checkpoint_digests, make_run, toy_dataset, train_run, untimed_lines

from flctl.cli.failures import Terminated
from flctl.cli.signals import StopSignals
from flctl.config.load import load
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, IncompatibleError, RoundFailedError
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.hookspecs import hookimpl
from flctl.plugins.registry import Registry
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from flctl.types import Failure


def resume(partition, path, *overrides):
    """Goes on with a run whose config has these overrides."""
    directory, registry = RunDirectory(path), Registry()
    loaded = load(registry, file=directory.config_file, overrides=overrides)
    return train(Run.build(loaded.config, registry, partition, directory.memory), directory)


@pytest.mark.parametrize(
    ("rule", "status", "lifted"),
    [
        (("stop.target=0.01",), "target", "stop.target=1.1"),
        (("stop.patience=1", "stop.min_delta=2"), "patience", "stop.patience=100"),
        (("stop.minutes=1e-9",), "time", "stop.minutes=60"),
    ],
)
def test_a_resume_goes_on_where_the_rule_that_ended_the_run_is_lifted(toy, tmp_path, rule, status, lifted):
    stopped = train_run(toy, tmp_path / "run", *rule, "rounds=4")
    assert (stopped.status, stopped.rounds < 4) == (status, True)
    assert resume(toy, tmp_path / "run").rounds == stopped.rounds
    went_on = resume(toy, tmp_path / "run", lifted)
    assert (went_on.status, went_on.rounds) == ("finished", 4)
    train_run(toy, tmp_path / "straight", "rounds=4")
    last = [name for name in checkpoint_digests(tmp_path / "run") if name.startswith("round-00004")]
    for name in last:
        assert checkpoint_digests(tmp_path / "run")[name] == checkpoint_digests(tmp_path / "straight")[name]
    if status != "time":
        assert untimed_lines(tmp_path / "run") == untimed_lines(tmp_path / "straight")


class Fails(InProcessEngine):
    """Loses a client in the fourth round, for as long as it is told to."""

    name, gathers = "fails", False
    script: ClassVar = {"fail": True}

    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            lost = self.script["fail"] and next(iter(requests.values())).round == 4
            yield client, Failure("exception", "lost") if lost else answer


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_a_round_that_fails_costs_none_of_those_before_it(toy, tmp_path, strategy, monkeypatch):
    registry = Registry()
    registry.add(SimpleNamespace(flctl_engines=hookimpl(lambda: [Fails])), "fails")
    chosen = (f"strategy={strategy}", "rounds=6", "checkpoint.every=0", "checkpoint.seconds=0")
    run, directory = make_run(toy, tmp_path / "run", *chosen, "engine=fails", registry=registry)
    with pytest.raises(RoundFailedError, match="round 4"):
        train(run, directory)
    assert directory.checkpoints.rounds()[-1] == len(directory.lines()) == 3
    monkeypatch.setitem(Fails.script, "fail", False)
    assert train(Run.build(run.config, registry, toy, directory.memory), directory).rounds == 6
    straight = train_run(toy, tmp_path / "straight", *chosen, "engine=fails", registry=registry)
    assert straight.rounds == 6
    assert untimed_lines(tmp_path / "run") == untimed_lines(tmp_path / "straight")


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (3, 3), (5, 5), (6, 6), (7, 7), (100, 7)])
def test_keep_says_how_many_regular_checkpoints_stay(toy, tmp_path, keep, kept):
    """Six rounds and the start make seven; a number beyond them keeps all."""
    rule = ("checkpoint.every=1", f"checkpoint.keep={keep}", "rounds=6", "eval.every=0")
    run, directory = make_run(toy, tmp_path / "run", *rule)
    train(run, directory)
    assert directory.checkpoints.rounds() == list(range(7 - kept, 7))


def test_a_run_records_how_its_clients_were_trained(toy, tmp_path):
    run, directory = make_run(toy, tmp_path / "run", "rounds=1")
    train(run, directory)
    facts = json.loads((tmp_path / "run/execution.json").read_text())
    assert facts["executor"] == run.execution.executor
    assert facts["memory"] == 2**30


def test_a_run_is_not_resumed_by_another_executor(toy, tmp_path):
    run, directory = make_run(toy, tmp_path / "run", "rounds=1")
    train(run, directory)
    path = tmp_path / "run/execution.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "executor": "sequential"}))
    with pytest.raises(IncompatibleError, match="trained its clients by sequential"):
        train(run, directory)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_second_signal_ends_at_once_as_what_it_is(number, error):
    signals = StopSignals()
    signals.receive(number, None)
    with pytest.raises(error):
        signals.receive(number, None)


@pytest.mark.parametrize("rule", ["stop.patience=1", "stop.target=0.5"])
def test_a_rule_that_nothing_can_meet_is_refused(tmp_path, rule):
    untested = write_partition(
        tmp_path / "p", toy_dataset(60), Given([0] * 60), PartitionSpec(clients=1, test_fraction=0.0, seed=1)
    )
    with pytest.raises(ConfigError, match="neither validation nor test rows"):
        make_run(untested, tmp_path / "run", "cohort.clients=1", rule)

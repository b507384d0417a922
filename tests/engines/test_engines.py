"""Every engine: the same bits, and a client that fails is named whatever way it fails."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from support import checkpoint_digests, make_run, train_run, untimed_lines

from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.errors import FlctlError
from flctl.server.rounds import Rounds
from flctl.types import Failure, Reply, Request

TRAP = """
import os, signal, time
import torch
import flctl

class Trap(flctl.Strategy):
    "Fails for client 3 as `way` says."
    name = "trap"
    class Config(flctl.Strategy.Config):
        way: str = "raise"
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        if weight == 23:
            if self.config.way == "raise":
                raise RuntimeError("the sensor is broken")
            if self.config.way == "nan":
                arrays = {"delta": arrays["delta"] * float("nan")}
            if self.config.way == "shape":
                arrays = {"delta": arrays["delta"][1:]}
            if self.config.way == "weight":
                weight = -1.0
            if self.config.way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.config.way == "hang":
                time.sleep(600)
            if self.config.way == "print":
                print("noise on standard output")
        return arrays, weight, memory

@flctl.hookimpl
def flctl_strategies():
    return [Trap]
"""


@pytest.fixture
def trap(tmp_path):
    file = tmp_path / "trap.py"
    file.write_text(TRAP)
    return f"plugins=[{file.as_posix()}]"


def victim(toy) -> str:
    """The client that the trap is set for: the one with 23 training rows."""
    (index,) = np.flatnonzero(toy.counts[:, 0] == 23)
    return str(toy.client_ids[int(index)])


SETTINGS = ("model=mlp", "cohort.clients=7", "local.epochs=2", "strategy=fedadam")


@pytest.mark.slow
def test_the_same_bits_in_this_process_and_in_workers_that_start_as_they_do_for_users(toy, tmp_path, started_workers):
    train_run(toy, tmp_path / "here", *SETTINGS)
    train_run(toy, tmp_path / "pool", *SETTINGS, "engine.name=pool", "engine.workers=2")
    assert checkpoint_digests(tmp_path / "pool") == checkpoint_digests(tmp_path / "here")
    assert untimed_lines(tmp_path / "pool") == untimed_lines(tmp_path / "here")


def test_the_same_bits_in_this_process_and_in_one_two_and_four_workers(toy, tmp_path):
    train_run(toy, tmp_path / "here", *SETTINGS)
    for workers in (1, 2, 4):
        path = tmp_path / f"pool-{workers}"
        train_run(toy, path, *SETTINGS, "engine.name=pool", f"engine.workers={workers}")
        assert checkpoint_digests(path) == checkpoint_digests(tmp_path / "here")
        assert untimed_lines(path) == untimed_lines(tmp_path / "here")


@pytest.mark.parametrize(
    ("way", "kind", "says"),
    [
        ("raise", "exception", "RuntimeError: the sensor is broken"),
        ("nan", "non-finite", "15 of 15 values NaN"),
        ("shape", "exception", "expected {'delta': 15}"),
        ("weight", "exception", "weight is -1.0"),
    ],
)
def test_a_failing_client_is_named_and_the_round_goes_on_if_allowed(toy, tmp_path, trap, way, kind, says):
    result = train_run(
        toy, tmp_path / "run", trap, "strategy.name=trap", f"strategy.way={way}", "engine.max_failures=1",
        "cohort.sampling=all", "rounds=2",
    )  # fmt: skip
    assert result.summary["failures"] == 2
    for line in result.directory.lines():
        assert list(line["failed"]) == [victim(toy)]
        assert line["failed"][victim(toy)]["kind"] == kind
        assert says in line["failed"][victim(toy)]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "kind"), [("kill", "worker-died"), ("hang", "deadline"), ("raise", "exception")])
def test_a_worker_that_dies_or_hangs_costs_its_client_only(toy, tmp_path, trap, way, kind):
    result = train_run(
        toy, tmp_path / "run", trap, "strategy.name=trap", f"strategy.way={way}", "engine.max_failures=1",
        "cohort.sampling=all", "rounds=2", "engine.workers=2", "engine.deadline=5",
    )  # fmt: skip
    lines = result.directory.lines()
    assert [line["answered"] for line in lines] == [9, 9]
    assert [line["failed"][victim(toy)]["kind"] for line in lines] == [kind, kind]


@pytest.mark.slow
def test_a_client_that_prints_does_not_disturb_its_worker(toy, tmp_path, trap, started_workers):
    result = train_run(
        toy, tmp_path / "run", trap, "strategy.name=trap", "strategy.way=print", "cohort.sampling=all", "rounds=1",
        "engine.workers=2",
    )  # fmt: skip
    assert result.directory.lines()[0]["answered"] == 10


def test_a_late_client_is_left_out_in_process_too(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run")
    engine = InProcessEngine()
    with engine.open(run):
        work = Rounds(run, engine).plan(Rounds(run, engine).initial()).work
        ((client, answer),) = engine.exchange({"0": Request(1, work, b"")}, deadline=0.0)
    assert client == "0"
    assert isinstance(answer, Failure)
    assert answer.kind == "deadline"


@pytest.mark.slow
def test_a_worker_that_cannot_open_the_run_says_why(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "engine.name=pool")
    broken = dataclasses.replace(run, config=run.config.model_copy(update={"strategy": run.config.strategy.model_copy(
        update={"name": "no-such"})}))  # fmt: skip
    with pytest.raises(FlctlError, match="unknown strategy 'no-such'"), PoolEngine().open(broken):
        pass


@pytest.mark.parametrize("engine", [InProcessEngine(), PoolEngine()], ids=lambda engine: engine.name)
def test_what_an_engine_promises(toy, tmp_path, engine):
    """Each asked client is answered once; another exchange works after one that was abandoned."""
    run, _ = make_run(toy, tmp_path / "run", "engine.name=pool", "engine.workers=2")
    with engine.open(run):
        assert list(engine.clients()) == [str(k) for k in range(10)]
        rounds = Rounds(run, engine)
        requests = {str(k): Request(1, rounds.plan(rounds.initial()).work, b"") for k in (5, 1, 3)}
        next(iter(engine.exchange(requests)))
        answers = dict(engine.exchange(requests))
        assert sorted(answers) == ["1", "3", "5"]
        assert all(isinstance(answer, Reply) for answer in answers.values())
        assert dict(engine.exchange({})) == {}


@pytest.mark.slow
def test_workers_run_this_flctl_wherever_the_user_stands(toy, tmp_path, monkeypatch, started_workers):
    (tmp_path / "flctl").mkdir()
    (tmp_path / "flctl" / "__init__.py").write_text("raise SystemExit('another flctl')")
    run, _ = make_run(toy, tmp_path / "run", "engine.workers=2")
    monkeypatch.chdir(tmp_path)
    with PoolEngine().open(run) as engine:
        assert list(engine.clients()) == list(toy.client_ids)


BUSY = """
import time
from flctl import worker

def serve(requests, replies):
    replies.write(b"!")
    replies.flush()
    time.sleep(600)

worker.serve = serve
worker.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no poll")
def test_a_worker_in_the_middle_of_a_chunk_goes_with_its_server():
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.read(1) == b"!"
            assert process.poll() is None
            process.stdin.close()
            assert process.wait() == 0
        finally:
            process.kill()

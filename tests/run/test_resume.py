"""A run that was killed at any moment ends as the run that never was, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import checkpoint_digests, flctl, make_run, prefork, train_run, untimed_lines

from flctl.errors import IncompatibleError, IntegrityError, StorageError
from flctl.run.directory import RunDirectory
from flctl.server.training import train

TESTS = Path(__file__).resolve().parents[1]


def same_end(one: Path, other: Path) -> None:
    assert checkpoint_digests(one) == checkpoint_digests(other)
    assert untimed_lines(one) == untimed_lines(other)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (one, other)]
    for summary in summaries:
        summary.pop("seconds")
    assert summaries[0] == summaries[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to kill cheaply")
@pytest.mark.parametrize(
    ("strategy", "stride"),
    [
        ("scaffold", 25),
        ("feddyn", 25),
        ("ditto", 40),
        ("fedadam", 1),
        ("remembering", 3),
    ],
)
@pytest.mark.timeout(900)
def test_killed_at_each_durable_operation(toy, tmp_path, strategy, stride):
    """Every fsync, rename, unlink, mkdir and file opened for writing is once the last thing that a run does."""
    command = [sys.executable, "-m", "support.kill_driver", str(toy.path), str(tmp_path), strategy, str(stride)]
    done = prefork.run(command, cwd=TESTS)
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads(done.stdout.splitlines()[-1])
    assert len(kills) > 70 // stride
    for name in kills:
        same_end(tmp_path / "whole", tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_times_with_a_pool_of_workers(toy, tmp_path):
    """The command line itself, two workers, SIGKILL at random times, resumed until it ends."""
    flags = ["--model", "mlp", "--rounds", "40", "--clients-per-round", "5", "--seed", "3", "--workers", "2"]
    started = time.monotonic()
    assert flctl("train", str(toy.path), *flags, "--out", str(tmp_path / "whole")).returncode == 0
    whole = time.monotonic() - started  # a slow machine gets more time before each kill, and still makes progress
    path, dice, kills = tmp_path / "killed", random.Random(4), 0
    command = [sys.executable, "-c", "from flctl.cli import main; main()", "train"]
    while not (path / "summary.json").exists() and kills < 12:
        arguments = ["--resume", str(path)] if path.exists() else [str(toy.path), *flags, "--out", str(path)]
        process = prefork.start([*command, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(whole * dice.uniform(0.4, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        whole *= 1 if path.exists() else 1.5  # the machine has become slower meanwhile
    assert path.exists(), "no process lived long enough to start the run"
    if not (path / "summary.json").exists():
        assert flctl("train", "--resume", str(path)).returncode == 0
    same_end(tmp_path / "whole", path)


def test_resuming_a_finished_run_changes_nothing(toy, tmp_path):
    train_run(toy, tmp_path / "run")
    before = checkpoint_digests(tmp_path / "run"), untimed_lines(tmp_path / "run")
    run, _ = make_run(toy, tmp_path / "scratch")
    result = train(run, RunDirectory(tmp_path / "run"))
    assert result.status == "finished"
    assert (checkpoint_digests(tmp_path / "run"), untimed_lines(tmp_path / "run")) == before


def test_more_rounds_go_on_as_if_they_had_been_asked_for_at_once(toy, tmp_path):
    train_run(toy, tmp_path / "short", "rounds=3")
    longer, _ = make_run(toy, tmp_path / "scratch", "rounds=6")
    train(longer, RunDirectory(tmp_path / "short"))
    train_run(toy, tmp_path / "long", "rounds=6")
    assert untimed_lines(tmp_path / "short") == untimed_lines(tmp_path / "long")


def test_an_interrupted_run_goes_on(toy, tmp_path):
    train_run(toy, tmp_path / "whole", "rounds=6")
    run, directory = make_run(toy, tmp_path / "cut", "rounds=6")
    assert train(run, directory, interrupted=lambda: True).status == "interrupted"
    assert len(directory.lines()) == 1
    train(run, directory)
    assert untimed_lines(tmp_path / "whole") == untimed_lines(tmp_path / "cut")


def test_another_config_is_refused(toy, tmp_path):
    train_run(toy, tmp_path / "run")
    other, _ = make_run(toy, tmp_path / "other", "local.lr=0.2")
    with pytest.raises(IncompatibleError, match="round 4 was written with a different configuration"):
        train(other, RunDirectory(tmp_path / "run"))


def test_another_partition_is_refused(toy, tmp_path):
    from support import toy_partition

    train_run(toy, tmp_path / "run")
    other = toy_partition(tmp_path / "other", clients=9)
    run, _ = make_run(other, tmp_path / "scratch")
    with pytest.raises(IncompatibleError, match="written with a different partition"):
        train(run, RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize("name", ["flctl", "torch", "numpy"])
def test_another_version_is_refused(toy, tmp_path, name):
    train_run(toy, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    facts["versions"][name] = "0.0.9"
    path.write_text(json.dumps(facts))
    run, _ = make_run(toy, tmp_path / "scratch")
    with pytest.raises(IncompatibleError, match=rf"written by {name} 0\.0\.9, found "):
        train(run, RunDirectory(tmp_path / "run"))


def test_lost_metrics_are_found(toy, tmp_path):
    train_run(toy, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[1:]))
    run, _ = make_run(toy, tmp_path / "scratch", "rounds=6")
    with pytest.raises(IntegrityError, match="has no lines"):
        train(run, RunDirectory(tmp_path / "run"))


def test_two_processes_never_train_one_run(toy, tmp_path):
    run, directory = make_run(toy, tmp_path / "run")
    with directory.locked(), pytest.raises(StorageError, match="another process"):
        train(run, RunDirectory(tmp_path / "run"))

"""Killed at any point, a run has paid for whatever it may have released."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from flctl.server.training import train
from flctl.testing.trial import Trial

from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.noise.lattice import Lattice

DP = 'transforms.dp={"noise_multiplier": 2.0}'
FTRL = ("cohort.sampling=cyclic", "cohort.clients=2", 'transforms.dp-ftrl={"noise_multiplier": 2.0}')


def test_noise_is_drawn_only_when_its_charge_is_on_disk(tmp_path, monkeypatch):
    trial = Trial(tmp_path, "rounds=3")
    file = LedgerFile(trial.partition.path / "privacy-ledger.jsonl")
    seen, real = [], Lattice.noised
    monkeypatch.setattr(Lattice, "noised", lambda *args: seen.append(len(file.read().charges)) or real(*args))
    train(*trial.prepare("cohort.sampling=all", DP))
    assert seen == [1, 2, 3]


def test_a_round_that_fails_is_charged_all_the_same(tmp_path, monkeypatch):
    trial = Trial(tmp_path, "rounds=3")

    def break_down(*args):
        raise RuntimeError("power cut")

    monkeypatch.setattr(Lattice, "noised", break_down)
    with pytest.raises(RuntimeError, match="power cut"):
        train(*trial.prepare("cohort.sampling=all", DP))
    assert len(LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read().charges) == 1


def test_correlated_noise_is_drawn_only_when_its_charge_is_on_disk(tmp_path, monkeypatch):
    from flctl_dp.mechanisms import ftrl

    trial = Trial(tmp_path, "rounds=3")
    file = LedgerFile(trial.partition.path / "privacy-ledger.jsonl")
    seen, real = [], ftrl.noised
    monkeypatch.setattr(ftrl, "noised", lambda *args: seen.append(len(file.read().charges)) or real(*args))
    train(*trial.prepare(*FTRL))
    assert seen == [1, 2, 3]


DRIVER = """
import sys
from pathlib import Path
from flctl.config.load import load
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry
from flctl.run import Run
from flctl.run.directory import RunDirectory
from flctl.server.training import train

directory, registry = RunDirectory(Path(sys.argv[1])), Registry()
config = load(registry, file=directory.config_file, flags={}, overrides=(), environ={}).config
train(Run.build(config, registry, Partition.open(Path(config.data)), directory.memory), directory)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", [("cohort.sampling=all", DP), FTRL])
@pytest.mark.timeout(900)
def test_kill_minus_nine_at_any_point_leaves_no_release_uncharged(tmp_path, mechanism):
    trial = Trial(tmp_path, "rounds=400", "checkpoint.every=3", "checkpoint.seconds=0", "eval.every=0")
    _, directory = trial.prepare(*mechanism)
    (tmp_path / "driver.py").write_text(DRIVER)
    file, pick = LedgerFile(trial.partition.path / "privacy-ledger.jsonl"), random.Random(5)
    charged, killed = 0, 0
    while killed < 4:
        process = subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), str(directory.path)])
        before = len(directory.lines())
        while process.poll() is None and len(directory.lines()) <= before:
            time.sleep(0.01)
        time.sleep(pick.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
        ledger = file.read()
        rounds = [charge.round for charge in ledger.charges]
        assert len({charge.run for charge in ledger.charges}) <= killed
        assert set(range(1, len(directory.lines()) + 1)) <= set(rounds)
        assert len(rounds) > charged
        newest = directory.checkpoints.rounds()[-1]
        manifest = json.loads((directory.checkpoints.path(newest) / "manifest.json").read_text())
        assert manifest["round"] <= max(rounds)
        charged = len(rounds)
    assert killed >= 1
    again = [one for number, one in enumerate(ledger.charges) if one.round <= max([0, *rounds[:number]])]
    assert {one.release.place for one in again} <= {0 if mechanism[-1] == DP else 1}

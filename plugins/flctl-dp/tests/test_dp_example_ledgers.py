"""A ledger for each client: killed at any point, tampered with, many of them, and as the command line shows them."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from flctl import IncompatibleError, IntegrityError, RoundFailedError
from flctl.cli import run as run_cli
from flctl.server.training import train
from flctl.testing.trial import Trial

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.budget import example_budget
from flctl_dp.ledgers import client_ledgers
from flctl_dp.ledgers.client_ledgers import ClientLedgers, coarse, spent
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.noise.lattice import Lattice
from test_dp_crash import DRIVER

DP = 'transforms.dp-examples={"noise_multiplier": 2.0}'


@pytest.fixture
def flctl(capsys):
    """What a command prints, or the data of its envelope; and its exit code."""

    def call(*words):
        code = run_cli(["dp", *map(str, words)])
        said = capsys.readouterr().out
        return code, json.loads(said).get("data") if "--json" in words else said

    return call


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=3", "local.batch_size=0")


def ledgers_of(trial):
    return ClientLedgers(trial.partition.path / "privacy-ledgers")


def test_noise_is_drawn_only_when_its_charge_is_on_disk(trial, monkeypatch):
    """Nine clients in three rounds: when the n-th step draws its noise, n charges are there."""
    seen, real = [], Lattice.noised

    def charges():
        return sum(len(ledger.charges) for ledger in ledgers_of(trial).all().values())

    monkeypatch.setattr(Lattice, "noised", lambda *args: seen.append(charges()) or real(*args))
    train(*trial.prepare(DP))
    assert seen == list(range(1, 28))


def test_steps_of_several_rates_are_calibrated_at_the_highest_rate():
    assert example_budget._bounding(((0.2, 5), (0.5, 1))) == (0.5, 6)


def test_a_client_that_breaks_down_is_charged_all_the_same(trial, monkeypatch):
    def break_down(*args):
        raise RuntimeError("power cut")

    monkeypatch.setattr(Lattice, "noised", break_down)
    with pytest.raises(RoundFailedError, match="power cut"):
        train(*trial.prepare(DP))
    assert [len(ledger.charges) for ledger in ledgers_of(trial).all().values()] == [1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_minus_nine_at_any_point_leaves_no_client_uncharged(tmp_path):
    trial = Trial(tmp_path, "rounds=400", "checkpoint.every=3", "checkpoint.seconds=0", "eval.every=0")
    _, directory = trial.prepare(DP, "local.batch_size=0", "engine={name: pool, workers: 2}")
    (tmp_path / "driver.py").write_text(DRIVER)
    pick, killed, lines = random.Random(5), 0, 0
    while killed < 3:
        before = sum(len(one.charges) for one in ledgers_of(trial).all().values())
        command = [sys.executable, str(tmp_path / "driver.py"), str(directory.path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and len(directory.lines()) <= lines:
            time.sleep(0.05)
        time.sleep(pick.uniform(0, 0.5))
        process.kill()
        _, said = process.communicate()  # its workers hold the pipe too: at its end none of them charges any more
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        killed += 1
        lines = len(directory.lines())
        found = ledgers_of(trial).all()
        for ledger in found.values():
            assert set(range(1, lines + 1)) <= {charge.round for charge in ledger.charges}
        assert sum(len(one.charges) for one in found.values()) > before
    assert killed >= 1


def test_many_sizes_are_accounted_by_few_rates_that_say_no_less(monkeypatch):
    releases = {Release("poisson", 1.5, rate=rate): 10 for rate in (0.101, 0.102, 0.2, 1.0)}
    raised = coarse(releases)
    assert sum(raised.values()) == 40
    assert len(raised) == 3
    rates = sorted(release.rate for release in raised)
    assert all(low <= high <= low * 1.0501 for low, high in zip((0.101, 0.2, 1.0), rates, strict=True))
    assert rates[0] >= 0.102
    exact = epsilon(releases, 1e-5, "add-remove", accountant="rdp")
    assert exact <= epsilon(raised, 1e-5, "add-remove", accountant="rdp") <= 1.1 * exact
    monkeypatch.setattr(client_ledgers, "MANY", 3)
    kinds = [{Release("poisson", 2.0, rate=0.1 + 0.001 * place): 5} for place in range(6)]
    found = spent(kinds, 1e-5, "add-remove", exact=False)
    assert found.clients == 6
    assert found.greatest >= epsilon(kinds[-1], 1e-5, "add-remove", accountant="rdp")


def test_status_and_verify_look_at_every_client(trial, flctl):
    train(*trial.prepare(DP))
    path = trial.partition.path
    shown = flctl("status", path, "--json")[1]["clients"]
    each = {Release("poisson", 2.0, rate=1.0): 3}
    assert (shown["clients"], shown["charges"], shown["steps"], shown["runs"]) == (9, 27, 27, 1)
    assert shown["epsilon"] == shown["median_epsilon"] == epsilon(each, 1e-5, "add-remove")
    assert "a ledger for each client" in flctl("status", path)[1]
    assert flctl("verify", path, "--json")[1]["clients"]["clients"] == 9
    assert "27 charges in the unbroken chains of 9 clients" in flctl("verify", path)[1]
    assert "27 charges" in flctl("verify", ledgers_of(trial).folder)[1]


def test_both_units_stand_side_by_side(trial, flctl):
    both = json.dumps({"dp-examples": {"noise_multiplier": 2.0}, "dp": {"noise_multiplier": 3.0}})
    train(*trial.prepare(f"transforms={both}"))
    data = flctl("status", trial.partition.path, "--json")[1]
    assert (data["charges"], data["clients"]["charges"]) == (3, 27)
    assert len(flctl("verify", trial.partition.path)[1].splitlines()) == 3


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "uncounted"])
def test_one_clients_ledger_that_was_harmed_is_found(trial, flctl, harm):
    train(*trial.prepare(DP, "local.steps=2"))
    path = ledgers_of(trial).of(5).path
    if harm == "changed":
        path.write_text(path.read_text().replace('"noise_multiplier":2.0', '"noise_multiplier":9.0'))
    elif harm == "cut":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    elif harm == "uncounted":
        path.write_text(path.read_text().replace('"count":2', '"count":1'))
    else:
        path.unlink()
    assert flctl("verify", trial.partition.path)[0] == 6
    with pytest.raises(IntegrityError):
        train(*trial.prepare(DP))


def test_a_ledger_of_the_other_unit_is_refused(trial):
    train(*trial.prepare(DP))
    with pytest.raises(IncompatibleError, match="kept for the unit example"):
        LedgerFile(ledgers_of(trial).of(0).path).open("0", "add-remove")


def test_plans_of_rows_are_what_the_accountant_says(flctl):
    words = ["plan-examples", "--rows", 1000, "--batch-size", 100, "--rounds", 5, "--epochs", 2, "--json"]
    code, data = flctl(*words, "--noise-multiplier", 1.5)
    assert code == 0
    assert data["epsilon"] == epsilon({Release("poisson", 1.5, rate=0.1): 100}, 1e-5, "add-remove")
    assert data["steps"] == 100
    assert "example level" in data["statement"]


def test_plans_of_rows_make_tables_and_refuse_nonsense(flctl):
    words = ["plan-examples", "--rows", 500, "--rounds", 2, "--rounds", 3, "--batch-size", 0]
    assert flctl(*words, "--target-epsilon", 3)[1].count("add-remove") == 2
    odd = ["--noise-multiplier", 1, "--relation", "odd"]
    for wrong in (["--noise-multiplier", 0], [], ["--noise-multiplier", 1, "--delta", 0.01], odd):
        assert flctl(*words, *wrong)[0] == 2

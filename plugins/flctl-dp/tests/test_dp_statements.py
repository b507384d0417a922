"""Statements: the adversary that holds, epsilon rounded up, and warnings."""

import json

import pytest
from flctl.cli import run as run_cli
from flctl.server.training import train
from flctl.testing.trial import Trial

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.figures import rounded_up, weak
from flctl_dp.accounting.releases import Release
from flctl_dp.accounting.summed_release import SummedRelease
from flctl_dp.budget.statements import statement

SUMMED = SummedRelease(noise_multiplier=2.0, cohort=10, survivors=8, dimension=64, bits=20)


@pytest.mark.parametrize(
    "release", [Release("poisson", 1.0, rate=0.1), Release("all", 1.0), Release("cyclic", 1.0, bands=1, separation=2)]
)
def test_a_server_that_adds_the_noise_is_trusted_and_no_adversary(release):
    said = statement({release: 3}, 1e-5, release.default_relation())
    assert "the server is trusted with the sum" in said
    assert "observers who also see the cohorts (zero-out), eps=" in said
    assert "against the server" not in said


@pytest.mark.parametrize("release", [Release("unsampled", 2.0, local=True), SUMMED])
def test_against_the_server_is_said_where_clients_add_the_noise(release):
    said = statement({release: 3}, 1e-5, release.default_relation())
    assert "against the server and any observer of the cohorts" in said
    assert "trusted" not in said.replace("without a trusted server", "")


def test_one_round_with_noise_of_the_server_ends_the_claim_against_it():
    said = statement({SUMMED: 3, Release("unsampled", 2.0): 1}, 1e-5, "zero-out")
    assert "the server is trusted with the sum" in said


@pytest.mark.parametrize(
    ("name", "options", "trusted"),
    [("dp", {}, True), ("dp-adaptive", {"noise_multiplier": 0.5}, True), ("dp-local", {}, False)],
)
def test_summaries_of_runs_name_the_adversary(tmp_path, name, options, trusted):
    given = {"noise_multiplier": 4.0, **options}
    result = train(*Trial(tmp_path, "rounds=1").prepare(f"transforms.{name}={json.dumps(given)}"))
    said = result.summary["transforms"][name]["statement"]
    assert ("the server is trusted with the sum" in said) == trusted
    assert ("against the server" in said) == (not trusted)


def test_a_guarantee_is_rounded_up_never_down():
    assert rounded_up(5.968428) == "5.969"
    assert [rounded_up(value) for value in (4.0, 0.5, 0.0, 12345.6)] == ["4", "0.5", "0", "1.235e+04"]
    release = {Release("poisson", 1.0, rate=100 / 3400): 1500}
    exact = epsilon(release, 1 / 3400, "add-remove")
    assert float(statement(release, 1 / 3400, "add-remove").split("eps=")[1].split(",")[0]) >= exact


def test_epsilon_above_20_is_warned_of():
    assert weak(20.0) is None
    assert "20.01 is above 20" in weak(20.001)


def test_a_delta_of_one_over_the_clients_is_refused_by_plan_and_status(tmp_path, capsys):
    plan = ["dp", "plan", "--clients", "1000000", "--clients-per-round", "1000", "--rounds", "100"]
    assert run_cli([*plan, "--noise-multiplier", "1"]) == 2
    assert "Use less than 1e-06" in capsys.readouterr().err
    assert run_cli([*plan, "--noise-multiplier", "1", "--delta", "5e-7", "--json"]) == 0
    assert "above a tenth" in json.loads(capsys.readouterr().out)["data"]["warnings"][0]
    trial = Trial(tmp_path, "rounds=1")
    train(*trial.prepare('transforms.dp={"noise_multiplier": 4.0}'))
    assert run_cli(["dp", "status", str(trial.partition.path), "--delta", "0.12"]) == 2
    assert "9 clients" in capsys.readouterr().err


def test_status_takes_delta_and_target_from_the_ledger_and_finds_it_by_the_run(tmp_path, capsys):
    trial = Trial(tmp_path, "rounds=1")
    options = {"noise_multiplier": 4.0, "target_delta": 0.003, "target_epsilon": 2.0}
    _, directory = prepared = trial.prepare(f"transforms.dp={json.dumps(options)}")
    train(*prepared)
    for path in (trial.partition.path, directory.path, trial.partition.path / "privacy-ledger.jsonl"):
        assert run_cli(["dp", "status", str(path), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert (data["delta"], data["target_epsilon"]) == (0.003, 2.0)
        assert data["epsilon"] == epsilon({Release("all", 4.0): 1}, 0.003, "add-remove")


def test_a_later_run_without_a_target_keeps_to_the_recorded_one(tmp_path):
    trial = Trial(tmp_path, "rounds=2")
    most = epsilon({Release("all", 4.0): 3}, 1e-5, "add-remove")
    options = {"noise_multiplier": 4.0, "target_epsilon": most}
    assert train(*trial.prepare(f"transforms.dp={json.dumps(options)}")).status == "finished"
    result = train(*trial.prepare('transforms.dp={"noise_multiplier": 4.0}'))
    assert (result.status, result.rounds) == ("budget", 1)


def test_a_larger_delta_does_not_evade_the_recorded_target(tmp_path, capsys):
    trial = Trial(tmp_path, "rounds=2")
    most = epsilon({Release("all", 4.0): 3}, 1e-5, "add-remove")
    options = {"noise_multiplier": 4.0, "target_epsilon": most}
    assert train(*trial.prepare(f"transforms.dp={json.dumps(options)}")).status == "finished"
    result = train(*trial.prepare('transforms.dp={"noise_multiplier": 4.0, "target_delta": 0.01}'))
    assert (result.status, result.rounds) == ("budget", 1)
    for extra, delta in ([], 1e-5), (["--delta", "0.01"], 0.01):
        assert run_cli(["dp", "status", str(trial.partition.path), "--json", *extra]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert (data["delta"], data["target_delta"], data["rounds_left"]) == (delta, 1e-5, 0)

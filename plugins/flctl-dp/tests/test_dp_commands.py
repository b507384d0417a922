"""`flctl dp plan|status|verify` as a user meets them."""

import json

import pytest
from flctl.cli import run as run_cli
from flctl.server.training import train
from flctl.testing.trial import Trial

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.figures import rounded_up
from flctl_dp.accounting.releases import Release
from flctl_dp.accounting.summed_release import SummedRelease


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        code = run_cli(["dp", *map(str, arguments), "--json"])
        told = json.loads(capsys.readouterr().out)
        return code, told.get("data") or told["error"]

    return call


PLAN = ("plan", "--population", 1000, "--delta", 1e-5)


def test_a_plan_names_epsilon_against_the_release_and_who_sees_cohorts(cli):
    code, data = cli(*PLAN, "--cohort", 50, "--rounds", 20, "--noise-multiplier", 1.0)
    assert code == 0
    assert data["epsilon"] == epsilon({Release("poisson", 1.0, rate=0.05): 20}, 1e-5, "add-remove")
    assert data["observer_epsilon"] == epsilon({Release("all", 1.0): 20}, 1e-5, "zero-out")
    said = rounded_up(data["epsilon"])
    assert data["statement"].startswith(f"(eps={said}, delta=1e-05)-DP, client level, add-remove, Poisson")


def test_a_grid_is_every_combination(cli):
    options = ["--sampling", "all", "--cohort", 1000, "--rounds", 5, "--rounds", 10]
    code, data = cli(*PLAN, *options, "--target-epsilon", 2, "--target-epsilon", 8)
    assert code == 0
    assert [one["rounds"] for one in data["plans"]] == [5, 5, 10, 10]
    assert all(one["epsilon"] <= target for one, target in zip(data["plans"], [2, 8, 2, 8], strict=True))
    noise = [one["noise_multiplier"] for one in data["plans"]]
    assert noise[0] > noise[1]
    assert noise[2] > noise[0]


SUMS = ("--cohort", 500, "--rounds", 20, "--sampling", "all", "--survivors", 400, "--parameters", 60_000)


def test_a_plan_of_noise_that_clients_add_names_the_fewest_of_them(cli):
    wide = ("plan", "--population", 500, *SUMS, "--bits", 24, "--mechanism", "skellam")
    code, data = cli(*wide, "--noise-multiplier", 2)
    release = SummedRelease(
        noise_multiplier=2.0, cohort=500, survivors=400, dimension=65_536, bits=24, mechanism="skellam"
    )
    assert code == 0
    assert data["epsilon"] == data["observer_epsilon"] == epsilon({release: 20}, 1e-5, "zero-out")
    assert "minimum survivors 400 of up to 500, without a trusted server" in data["statement"]
    code, data = cli(*wide, "--target-epsilon", 3)
    assert 2.9 < data["epsilon"] <= 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--survivors", 501), "a round has 500 clients"),
        (("--parameters", 0), "size of the model"),
        (("--mechanism", "laplace"), "--mechanism is 'laplace'"),
        (("--relation", "add-remove"), "changes the selection"),
    ],
)
def test_sums_that_cannot_be_planned_are_told(cli, changed, said):
    code, error = cli("plan", "--population", 500, *SUMS, "--noise-multiplier", 1, *changed)
    assert (code in (2, 3), said in error["message"]) == (True, True), error


def test_a_table_and_a_sentence_are_printed(capsys):
    arguments = ["dp", *map(str, PLAN), "--sampling", "all", "--cohort", "1000", "--rounds", "5"]
    assert run_cli([*arguments, "--noise-multiplier", "4"]) == 0
    assert "against observers who also see the cohorts" in capsys.readouterr().out
    assert run_cli([*arguments, "--noise-multiplier", "4", "--noise-multiplier", "8"]) == 0
    assert "epsilon" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "either"),
        (["--noise-multiplier", 1, "--target-epsilon", 1], 2, "either"),
        (["--noise-multiplier", 0], 2, "above 0"),
        (["--noise-multiplier", 1, "--cohort", 2000], 2, "at most --clients 1000"),
        (["--noise-multiplier", 1, "--delta", 1], 2, "delta"),
        (["--noise-multiplier", 1, "--sampling", "magic"], 2, "--sampling is 'magic'"),
        (["--noise-multiplier", 1, "--relation", "cousins"], 2, "--relation is 'cousins'"),
        (["--noise-multiplier", 1, "--sampling", "fixed", "--relation", "add-remove"], 3, "changes the selection"),
        (["--noise-multiplier", 1, "--sampling", "fixed", "--cohort", 1.5], 2, "whole number"),
        (["--sampling", "all", "--target-epsilon", 1e-9], 4, "too small"),
    ],
)
def test_questions_without_an_answer_are_told(cli, arguments, code, said):
    cohort = [] if "--cohort" in arguments else ["--cohort", 50]
    found, error = cli(*PLAN, *cohort, "--rounds", 20, *arguments)
    assert (found, said in error["message"]) == (code, True), error


def test_status_and_verify_tell_of_all_runs(tmp_path, cli):
    trial = Trial(tmp_path, "rounds=2")
    for _ in range(2):
        train(*trial.prepare('transforms.dp={"noise_multiplier": 4.0}'))
    spent = {Release("all", 4.0): 4}
    code, data = cli("status", trial.partition.path, "--target-epsilon", 3)
    assert (code, data["charges"], len(data["runs"])) == (0, 4, 2)
    assert data["epsilon"] == epsilon(spent, 1e-5, "add-remove")
    left = data["rounds_left"]
    assert epsilon({Release("all", 4.0): 4 + left}, 1e-5, "add-remove") <= 3
    assert epsilon({Release("all", 4.0): 5 + left}, 1e-5, "add-remove") > 3
    code, data = cli("verify", trial.partition.path)
    assert (code, data["charges"]) == (0, 4)
    ledger = trial.partition.path / "privacy-ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"4.0", b"5.0", 1))
    for command in ("verify", "status"):
        code, error = cli(command, trial.partition.path)
        assert (code, "was changed" in error["message"]) == (6, True)


def test_where_there_is_no_ledger_there_is_nothing_to_show(tmp_path, cli):
    for command in ("status", "verify"):
        code, error = cli(command, tmp_path)
        assert (code, "does not exist" in error["message"]) == (2, True)

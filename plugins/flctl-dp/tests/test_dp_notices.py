"""Before a run: what is left of the budget, and which runs have to be confirmed."""

import json

import pytest
from flctl.cli import run as run_cli

SECOND = ["--rounds", "2", "-o", "cohort.sampling=all", "-o", "checkpoint.every=0"]


@pytest.fixture
def parts(tmp_path):
    def partition(name, seed=1):
        path = tmp_path / name
        words = ["partition", "iris", "--clients", "6", "--scheme", "iid", "--seed", str(seed), "--out", str(path)]
        assert run_cli(words) == 0
        return path

    return partition


def train(path, out, *options, name="dp"):
    words = ["train", str(path), "--model", "logreg", "--transform", name, "--out", str(out), *SECOND, *options]
    return run_cli(words)


def option(name="dp", **options):
    return [word for key, value in options.items() for word in ("-o", f"transforms.{name}.{key}={value}")]


def test_a_second_run_on_a_spent_budget_has_to_be_confirmed(parts, tmp_path, capsys):
    """The first run spends the target; a second one would take many times its noise, and train noise."""
    path, budget = parts("parts"), option(target_epsilon=4, target_delta=0.01)
    assert train(path, tmp_path / "one", *budget) == 0
    capsys.readouterr()
    assert train(path, tmp_path / "two", *budget) == 4
    said = capsys.readouterr().err
    assert "a first run would need" in said
    assert "--yes" in said
    assert not (tmp_path / "two").exists()
    assert len((path / "privacy-ledger.jsonl").read_text().splitlines()) == 3
    assert train(path, tmp_path / "two", *budget, "--yes") == 0


def test_a_run_that_the_budget_ends_early_has_to_be_confirmed(parts, tmp_path, capsys):
    path, budget = parts("parts"), option(target_epsilon=2, target_delta=0.01, noise_multiplier=1.6)
    assert train(path, tmp_path / "one", *budget) == 0
    assert train(path, tmp_path / "two", *budget) == 4
    assert "ends this run after 0 of 2 rounds" in capsys.readouterr().err


def test_a_partition_of_the_same_rows_made_again_is_recognised(parts, tmp_path, capsys):
    options = option(noise_multiplier=4.0, target_delta=0.01)
    assert train(parts("parts"), tmp_path / "one", *options) == 0
    again = parts("again", seed=2)
    assert train(again, tmp_path / "two", *options) == 4
    ledger = tmp_path / "parts" / "privacy-ledger.jsonl"
    assert f"-o transforms.dp.ledger={ledger.as_posix()}" in capsys.readouterr().err
    assert train(again, tmp_path / "two", *options, *option(ledger=ledger.as_posix())) == 0
    assert len(ledger.read_text().splitlines()) == 5


def test_an_epsilon_above_20_is_warned_of_before_the_run(parts, tmp_path, capsys):
    assert train(parts("parts"), tmp_path / "one", *option(noise_multiplier=0.1, target_delta=0.01)) == 0
    assert "above 20" in capsys.readouterr().err


def test_a_second_run_on_rows_has_to_be_confirmed(parts, tmp_path, capsys):
    path, budget = parts("parts"), option("dp-examples", target_epsilon=4, target_delta=0.001)
    steps = ["-o", "local.batch_size=0"]
    assert train(path, tmp_path / "one", *budget, *steps, name="dp-examples") == 0
    assert train(path, tmp_path / "two", *budget, *steps, name="dp-examples") == 4
    assert "a first run would need" in capsys.readouterr().err


def test_notices_of_an_insecure_run_are_none(parts, tmp_path, capsys):
    path = parts("parts")
    assert train(path, tmp_path / "one", *option(noise_multiplier=0.1, target_delta=0.01)) == 0
    capsys.readouterr()
    assert train(path, tmp_path / "two", *option(noise_multiplier=0.1, insecure_seed=3, target_delta=0.01)) == 0
    assert "warning" not in capsys.readouterr().err


def test_json_says_why_a_run_was_not_started(parts, tmp_path, capsys):
    path, budget = parts("parts"), option(target_epsilon=4, target_delta=0.01)
    assert train(path, tmp_path / "one", *budget) == 0
    capsys.readouterr()
    assert train(path, tmp_path / "two", *budget, "--json") == 4
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 4

"""What is charged is released, and what is refused or replayed is not charged."""

import json
import re

import pytest
from flctl import IncompatibleError
from flctl.cli import run as run_cli
from flctl.server.training import train
from flctl.testing.trial import Trial

from flctl_dp.ledgers.ledger import LedgerFile


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=3", "checkpoint.seconds=0", "checkpoint.every=3")


def charges(trial):
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    return 0 if ledger is None else len(ledger.charges)


@pytest.mark.parametrize(
    ("name", "options"), [("dp", {"noise_multiplier": 2.0}), ("dp-local", {"noise_multiplier": 2.0})]
)
def test_a_replay_charges_nothing_and_does_not_guess_a_secret_cohort(trial, capsys, name, options):
    """Rounds 1 and 2 are played again on the way to round 3, and release nothing."""
    chosen = f"transforms.{name}={json.dumps(options)}"
    _, directory = prepared = trial.prepare(chosen, "cohort.sampling=poisson", "cohort.rate=0.5")
    train(*prepared)
    assert charges(trial) == 3
    client = str(trial.partition.client_ids[3])
    assert run_cli(["runs", "replay", str(directory.path), "--round", "3", "--client", client, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert charges(trial) == 3
    assert data["failed"] is None
    assert (data["in_cohort"] is None) == (name == "dp")


def test_a_replay_of_rows_charges_no_client(trial, capsys):
    options = 'transforms.dp-examples={"noise_multiplier": 2.0}'
    _, directory = prepared = trial.prepare(options, "rounds=1", "local.batch_size=0")
    train(*prepared)
    kept = {path: path.read_bytes() for path in (trial.partition.path / "privacy-ledgers").rglob("*.jsonl")}
    client = str(trial.partition.client_ids[3])
    assert run_cli(["runs", "replay", str(directory.path), "--round", "1", "--client", client]) == 0
    assert kept == {path: path.read_bytes() for path in kept}
    assert len(kept) == 9


def test_noise_that_the_votes_cannot_carry_is_refused_before_the_charge(tmp_path, capsys):
    """Thirty clients: votes are accounted with the multiplier 3, and the noise for epsilon 0.5 is above that."""
    parts = tmp_path / "parts"
    assert run_cli(["partition", "iris", "--clients", "30", "--scheme", "iid", "--out", str(parts)]) == 0
    options = ["target_epsilon=0.5", "target_delta=0.001"]
    words = [word for option in options for word in ("-o", f"transforms.dp-adaptive.{option}")]
    train_words = ["train", str(parts), "--model", "logreg", "--transform", "dp-adaptive", "--sampling", "all"]
    assert run_cli([*train_words, "--rounds", "2", "--out", str(tmp_path / "run"), *words]) == 3
    assert "votes" in capsys.readouterr().err
    ledger = LedgerFile(parts / "privacy-ledger.jsonl").read()
    assert ledger is None or not ledger.charges


@pytest.mark.parametrize(
    ("rate", "minimum", "refused"), [(0.25, 5, True), (0.5, 3, True), (0.999, 3, False), (0.9999999, 5, False)]
)
def test_poisson_cohorts_that_secure_aggregation_may_abort_are_refused(trial, rate, minimum, refused):
    """The accountant assumes a release for any cohort: an abort reveals that few clients were drawn."""
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
    options = [f"cohort.rate={rate}", "cohort.sampling=poisson", f"aggregator.minimum={minimum}"]
    chosen = ['transforms.dp={"noise_multiplier": 2.0}', "aggregator.name=secagg", "rounds=1", *options]
    if not refused:
        trial.prepare(*chosen)
        return
    with pytest.raises(IncompatibleError, match=r"a round aborts with probability|a round selects") as caught:
        trial.prepare(*chosen)
    assert not re.search(r"aggregator\.minimum=[012]\b", caught.value.hint)


@pytest.mark.parametrize("strategy", ["qfedavg", "fednova"])
@pytest.mark.parametrize("name", ["dp", "dp-ftrl", "dp-local"])
def test_strategies_that_scale_their_step_by_a_noised_sum_are_refused(trial, strategy, name):
    with pytest.raises(IncompatibleError, match="scales its step by the sum"):
        trial.prepare(f"transforms.{name}={json.dumps({'noise_multiplier': 2.0})}", f"strategy={strategy}")

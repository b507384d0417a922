"""Local privacy: what leaves a client is noise around a clipped update, and is accounted for any two updates."""

import json
import math

import numpy as np
import pytest
from flctl import ClientContext, ClientUpdate, ConfigError, ProtocolError
from flctl.server.training import train
from flctl.testing import check_transform
from flctl.testing.trial import Trial
from scipy import stats

from flctl_dp.accounting.accountants import epsilon, gaussian_epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.mechanisms.local import LocalDP


def dp(**options):
    return f"transforms.dp-local={json.dumps(options)}"


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=3")


def sent(update, seed=1, **options):
    transform = LocalDP.from_options({"noise_multiplier": 2.0, **options})
    broadcast = transform.broadcast(transform.init({"delta": update.size}))
    ctx = ClientContext(1, "a", broadcast, np.random.default_rng(seed))
    return transform.on_client(ClientUpdate("a", {"delta": update}, 31.0), ctx)


@pytest.mark.parametrize("hostile", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_noise_and_nothing_else(hostile):
    """The same noise as around zeros: clipping to nothing must not leave NaN to be rounded."""
    zeros = sent(np.zeros(5, np.float32), insecure_seed=3).arrays["delta"]
    found = sent(np.array([hostile, 1, 1, 1, 1], np.float32), insecure_seed=3).arrays["delta"]
    assert found.tolist() == zeros.tolist()


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms():
    check_transform(LocalDP)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e30])
def test_what_leaves_a_client_has_the_noise_that_is_accounted(size):
    update = np.full(40_000, size, np.float32)
    left = sent(update, clipping_norm=3.0)
    mean = min(size, 3.0 / math.sqrt(update.size))
    assert stats.kstest((left.arrays["delta"] - mean) / 6.0, "norm").pvalue > 1e-3
    assert left.weight == 1.0


def test_noise_comes_from_the_operating_system():
    """Equal contexts, other noise: the run's generator has no say in it."""
    update = np.zeros(100, np.float32)
    assert not np.array_equal(sent(update).arrays["delta"], sent(update).arrays["delta"])
    seeded = [sent(update, seed, insecure_seed=7).arrays["delta"] for seed in (1, 1, 2)]
    assert np.array_equal(seeded[0], seeded[1])
    assert not np.array_equal(seeded[0], seeded[2])


@pytest.mark.parametrize("cohort", [["cohort.sampling=all"], ["cohort.sampling=poisson", "cohort.rate=0.5"]])
def test_each_round_is_accounted_in_full_between_any_two_updates(trial, cohort):
    """Three rounds of sensitivity 2 C and noise 8 C: mu = sqrt(3) / 4, by the exact formula, whoever is drawn."""
    result = train(*trial.prepare(*cohort, dp(noise_multiplier=8.0)))
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    assert (dict(ledger.releases()), ledger.relation) == ({Release("unsampled", 8.0, local=True): 3}, "replace-one")
    said = result.summary["transforms"]["dp-local"]
    assert said["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(3) / 4, 1e-5))


def test_a_budget_is_kept(trial):
    budget = epsilon({Release("unsampled", 8.0): 2}, 1e-5, "replace-one")
    result = train(*trial.prepare(dp(noise_multiplier=8.0, target_epsilon=budget)))
    assert (result.status, result.rounds) == ("budget", 2)


def test_noise_leaves_the_clients_and_is_not_added_again_on_the_server(trial):
    run, directory = trial.prepare("cohort.sampling=all", dp(noise_multiplier=100.0), "rounds=1", "local.lr=1e-9")
    before = run.build_model().read()["params"]
    train(run, directory)
    moved = directory.checkpoints.load(1, run.build_model()).params["params"] - before
    assert moved.std() == pytest.approx(100.0 / math.sqrt(9), rel=0.6)


def test_relations_that_say_less_are_refused(trial):
    with pytest.raises(ConfigError, match="any two updates"):
        trial.prepare(dp(noise_multiplier=8.0, relation="zero-out"))


@pytest.mark.parametrize(
    "requested",
    [{"spread": 1e-9}, {"clip": 1e-9}, {"bound": 1e9}, {"spread": math.nan}, {"bound": math.nan}],
    ids=str,
)
def test_a_server_cannot_have_a_client_add_less_noise_or_clip_less(requested):
    transform = LocalDP.from_options({"noise_multiplier": 2.0})
    broadcast = transform.broadcast(transform.init({"delta": 5}))
    broadcast |= {name: np.array([value]) for name, value in requested.items()}
    ctx = ClientContext(1, "a", broadcast, np.random.default_rng(1))
    with pytest.raises(ProtocolError, match="noise multiplier"):
        transform.on_client(ClientUpdate("a", {"delta": np.ones(5, np.float32)}, 31.0), ctx)


def test_a_client_accepts_no_less_noise_than_the_target_needs(trial, monkeypatch):
    run, _ = trial.prepare("cohort.sampling=all", dp(target_epsilon=2.0, target_delta=1e-6))
    transform = run.transforms["dp-local"]
    monkeypatch.setattr(type(run.partition), "here", False)
    transform.check(run)
    broadcast = transform.broadcast(transform.init({"delta": 5}))
    ctx = ClientContext(1, "a", broadcast, np.random.default_rng(1))
    with pytest.raises(ProtocolError, match="noise multiplier 1 "):
        transform.on_client(ClientUpdate("a", {"delta": np.ones(5, np.float32)}, 31.0), ctx)

"""Adaptive clipping: it finds the median norm from anywhere, and votes and vectors together cost what is accounted."""

import math

import numpy as np
import pytest
from flctl import Aggregate, ClientContext, ClientUpdate, IncompatibleError, ServerContext
from flctl.server.training import train
from flctl.testing import check_transform
from flctl.testing.trial import Trial

from flctl_dp.accounting.releases import Release
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.mechanisms.adaptive import AdaptiveDP

SEEDED = {"noise_multiplier": 0.5, "insecure_seed": 7}


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms():
    check_transform(AdaptiveDP, {"noise_multiplier": 0.05, "insecure_seed": 7})


def play(transform, state, norms, number):
    """A round of clients with these norms."""
    total = {"delta": np.zeros(4), "dp.below": np.zeros(1)}
    for norm in norms:
        ctx = ClientContext(number, "a", transform.broadcast(state), np.random.default_rng(0))
        sent = transform.on_client(ClientUpdate("a", {"delta": np.full(4, norm / 2, np.float32)}, 5.0), ctx)
        total = {name: total[name] + vector for name, vector in sent.arrays.items()}
    ctx = ServerContext(number, len(norms), np.random.default_rng(number))
    return transform.on_server(Aggregate(total, float(len(norms)), len(norms)), state, ctx)


SLOW_STARTS = [(0.01, 0.5), (0.01, 0.8), (1.0, 0.5), (1.0, 0.8), (100.0, 0.5)]


@pytest.mark.parametrize(
    ("start", "quantile"),
    [(100.0, 0.8), *(pytest.param(s, q, marks=pytest.mark.slow) for s, q in SLOW_STARTS)],
)
def test_the_norm_converges_to_the_quantile(start, quantile):
    options = {**SEEDED, "clipping_norm": 3.0 * start, "target_quantile": quantile}
    transform = AdaptiveDP.from_options(options)
    state, rng = transform._begun(transform.init({"delta": 4}), 0.5, 60.0), np.random.default_rng(3)
    found = []
    for number in range(1, 141):
        norms = 3.0 * np.exp(0.5 * rng.normal(size=60))
        state = play(transform, state, norms, number)[1]
        found.append(float(state["clip"][0]))
    right = 3.0 * math.exp(0.5 * {0.5: 0.0, 0.8: 0.8416}[quantile])
    assert abs(math.log(np.mean(found[-40:]) / right)) < 0.12


def test_one_round_by_hand():
    """Three of four clients are within the norm: b = 3/4, C exp(-0.2 (b - 1/2)) but for the noise of 4 / 20."""
    transform = AdaptiveDP.from_options({**SEEDED, "noise_multiplier": 0.1, "clipping_norm": 2.0})
    state = transform._begun(transform.init({"delta": 4}), 0.1, 4.0)
    steps = []
    for number in range(400):
        aggregate, after = play(transform, state, [1.0, 1.0, 1.0, 50.0], number)
        steps.append(-math.log(float(after["clip"][0]) / 2.0) / 0.2 + 0.5)
        assert set(aggregate.arrays) == {"delta"}
    assert np.mean(steps) == pytest.approx(0.75, abs=0.02)
    assert np.std(steps) == pytest.approx(0.2 / 4, rel=0.15)


@pytest.mark.parametrize(("noise", "expected"), [(0.5, 100.0), (1.0, 40.0), (3.9, 40.0)])
def test_votes_and_vectors_together_are_one_gaussian(noise, expected):
    """Their squared ratios of sensitivity to noise add up to 1 / z^2; each vote moves the sum by at most a half."""
    transform = AdaptiveDP.from_options({"noise_multiplier": noise})
    state = transform._begun(transform.init({"delta": 4}), noise, expected)
    of_votes, of_vectors = 0.5 / (expected / 20), 1 / float(state["spread"][0])
    assert of_votes**2 + of_vectors**2 == pytest.approx(noise**-2)
    assert float(state["half"][0]) < 0.5
    assert float(state["bound"][0]) < float(state["clip"][0])


def test_cohorts_too_small_for_the_noise_are_refused(tmp_path):
    trial = Trial(tmp_path)
    with pytest.raises(IncompatibleError, match="votes on the clipping norm"):
        trial.prepare('transforms.dp-adaptive={"noise_multiplier": 1.0}')


def test_a_run_is_accounted_as_one_gaussian_a_round(tmp_path):
    trial = Trial(tmp_path, "rounds=3")
    result = train(*trial.prepare('transforms.dp-adaptive={"noise_multiplier": 0.5, "clipping_norm": 0.3}'))
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    assert dict(ledger.releases()) == {Release("all", 0.5): 3}
    said = [line["transforms"]["dp-adaptive"]["clip"] for line in result.directory.lines()]
    assert len({0.3, *said}) == 4


def test_hostile_norms_vote_against_and_count_nothing():
    transform = AdaptiveDP.from_options(SEEDED)
    broadcast = {"bound": np.array([1.0]), "half": np.array([0.4])}
    ctx = ClientContext(1, "a", broadcast, np.random.default_rng(0))
    for value in (3e38, 1e20):
        sent = transform.on_client(ClientUpdate("a", {"delta": np.full(9, value, np.float32)}, 5.0), ctx)
        assert np.linalg.norm(sent.arrays["delta"].astype(float)) <= 1.0 + 1e-6
        assert sent.arrays["dp.below"].tolist() == [np.float32(-0.4)]
    still = transform.on_client(ClientUpdate("a", {"delta": np.zeros(9, np.float32)}, 0.0), ctx)
    assert still.arrays["dp.below"].tolist() == [np.float32(0.4)]
    assert still.weight == 1.0

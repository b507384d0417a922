"""The audit: below the claim for the mechanism as it is, above it for each way in which one goes wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flctl.server.training import train
from flctl.testing.trial import Trial
from scipy import stats

from flctl_dp.accounting.accountants import epsilon, gaussian_epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.audit.canary_attack import audit, lower_bound, p_value
from flctl_dp.mechanisms.adaptive import AdaptiveDP
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.ftrl import CorrelatedDP
from flctl_dp.noise.entropy import insecure_words

ALL, DRAWN = Release("all", 4.0), Release("poisson", 1.0, rate=0.5)
TURNS = Release("cyclic", 2.0, bands=4, separation=5, place=1)


def made(kind, release):
    return kind.from_options({"noise_multiplier": release.noise_multiplier, "clipping_norm": 0.5})


class Forgetful(AdaptiveDP):
    """Votes without noise of their own, and vectors with a tenth of theirs."""

    def _spread(self, noise, expected):
        return super()._spread(noise, expected) / 10


class TenthInTurn(CorrelatedDP):
    def _begun(self, state, noise, expected):
        begun = super()._begun(state, noise, expected)
        return {**begun, "spread": begun["spread"] / 10}


class NoClipInTurn(CorrelatedDP):
    def factors(self, norms, broadcast):
        return np.ones_like(norms)


class SameInTurn(CorrelatedDP):
    def _words(self, number, rng):
        return insecure_words("always")


class TenthOfTheNoise(CentralDP):
    def _noised(self, arrays, state, words):
        return super()._noised(arrays, {**state, "spread": state["spread"] / 10}, words)


class NoClip(CentralDP):
    def factors(self, norms, broadcast):
        return np.ones_like(norms)


class SameNoise(CentralDP):
    def _words(self, number, rng):
        return insecure_words("always")


class CountsRows(CentralDP):
    def weigh(self, weights):
        return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "release", "rounds"),
    [
        (CentralDP, ALL, 1),
        (CentralDP, ALL, 10),
        (CentralDP, DRAWN, 5),
        (AdaptiveDP, ALL, 3),
        (CorrelatedDP, TURNS, 13),
    ],
)
def test_the_mechanism_as_it_is_stays_below_its_claim(kind, release, rounds):
    """Of twenty audits at 95% confidence, more than three above the claim would come by chance once in sixty times."""
    found = [
        audit(made(kind, release), release, rounds, canaries=500, rng=np.random.default_rng(seed)) for seed in range(20)
    ]
    assert sum(one.broken for one in found) <= 3
    assert {(one.rounds, one.canaries) for one in found} == {(rounds, 500)}


@pytest.mark.parametrize(
    ("kind", "release", "rounds"),
    [
        (CentralDP, Release("all", 0.5), 1),
        (AdaptiveDP, Release("all", 0.5), 1),
        (CorrelatedDP, Release("cyclic", 0.5, bands=4, separation=5, place=1), 8),
    ],
)
def test_the_bound_is_not_idle(kind, release, rounds):
    """Much is released where little noise is added: the audit says so, and stays below what is accounted."""
    found = audit(made(kind, release), release, rounds, canaries=2000, rng=np.random.default_rng(1))
    assert 1.0 < found.lower < found.claim


@pytest.mark.parametrize(
    ("mutant", "release", "rounds"),
    [
        (TenthOfTheNoise, ALL, 1),
        (NoClip, ALL, 1),
        (SameNoise, Release("poisson", 8.0, rate=0.5), 5),
        (CountsRows, ALL, 1),
        (Forgetful, ALL, 3),
        (TenthInTurn, TURNS, 8),
        (NoClipInTurn, TURNS, 8),
        (SameInTurn, replace(TURNS, noise_multiplier=16.0), 13),
    ],
)
def test_each_mutant_is_caught(mutant, release, rounds):
    found = [audit(made(mutant, release), release, rounds, rng=np.random.default_rng(seed)) for seed in range(3)]
    assert all(one.broken for one in found)


def test_p_values_without_delta_are_binomial_tails():
    """8 of 10 right by fair coins: (45 + 10 + 1) / 1024."""
    assert p_value(10, 10, 8, 0.0, 0.0) == pytest.approx(56 / 1024)
    assert p_value(10, 10, 10, np.log(3), 0.0) == pytest.approx(0.75**10)
    assert p_value(1000, 10, 10, 1.0, 1e-3) > p_value(1000, 10, 10, 1.0, 0.0)
    assert p_value(10, 10, 0, 5.0, 0.0) == 1.0


def test_bounds_are_where_the_p_value_is_the_error():
    found = lower_bound(100, 100, 95, 0.0, 0.05)
    assert p_value(100, 100, 95, found, 0.0) == pytest.approx(0.05, rel=1e-6)
    assert lower_bound(100, 100, 50, 0.0, 0.05) == 0.0
    assert lower_bound(100, 100, 100, 0.0, 0.05) < np.log(0.05 ** (1 / 100) / (1 - 0.05 ** (1 / 100))) + 1e-9


def test_randomised_response_is_never_refuted_too_often():
    """Coins told right with probability e / (1 + e) are 1-private: bounds above 1 come at most one time in twenty."""
    rng = np.random.default_rng(2)
    right = rng.binomial(400, np.e / (1 + np.e), size=100)
    above = sum(lower_bound(400, 400, int(v), 0.0, 0.05) > 1.0 for v in right)
    assert stats.binom.sf(above - 1, 100, 0.05) > 1e-3


@pytest.fixture
def cli(capsys):
    from flctl.cli import run

    def call(*arguments):
        code = run(["dp", *map(str, arguments), "--json"])
        told = json.loads(capsys.readouterr().out)
        return code, told.get("data") or told["error"]

    return call


@pytest.mark.slow
def test_a_configuration_is_audited_by_the_command(tmp_path, cli):
    file = tmp_path / "run.yaml"
    file.write_text("rounds: 3\ncohort: {sampling: all}\ntransforms:\n  dp: {noise_multiplier: 4.0}\n")
    code, data = cli("audit", file, "--canaries", 300)
    assert (code, data["rounds"], data["canaries"]) == (int(data["broken"]), 3, 300)
    assert data["claim"] == pytest.approx(gaussian_epsilon(3**0.5 / 4, 1e-5))
    file.write_text("rounds: 2\ncohort: {sampling: poisson, rate: 0.5}\ntransforms:\n  dp: {target_epsilon: 3.0}\n")
    code, data = cli("audit", file, "--canaries", 300)
    assert 2.9 < data["claim"] <= 3.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 2", "no transform 'dp'"),
        ("transforms: {dp: {}}", "by 'fixed'"),
        ("transforms: {dp: {noise_multiplier: -1}}", "cannot be used"),
        ("transforms: {dp: {insecure_seed: 1}}\ncohort: {sampling: all}", "no privacy claim"),
        ("rounds: many\ntransforms: {dp: {}}", "rounds is 'many'"),
        ("transforms: {dp: {}}\ncohort: {sampling: poisson, rate: x}", "cohort.rate is 'x'"),
        ("transforms: {dp: {}}\ncohort: {sampling: poisson, rate: 0.5, max_cohort: 9}", "with a max_cohort"),
        ("- a list", "not a YAML mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_be_audited_is_told(tmp_path, cli, text, said):
    (tmp_path / "run.yaml").write_text(text)
    code, error = cli("audit", tmp_path / "run.yaml")
    assert (code, said in error["message"]) == (2, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("transforms: {dp-local: {}}\ncohort: {sampling: all}", "does not support transform 'dp-local'"),
        ("transforms: {dp-ftrl: {}}\ncohort: {sampling: cyclic, clients: 3}", "which only a run records"),
    ],
)
def test_mechanisms_that_the_attack_does_not_know_are_refused(tmp_path, cli, text, said):
    (tmp_path / "run.yaml").write_text(text)
    code, error = cli("audit", tmp_path / "run.yaml")
    assert (code, said in error["message"]) == (3, True)


@pytest.mark.parametrize("name", ["dp-adaptive", "dp-ftrl"])
def test_runs_of_other_mechanisms_are_audited(tmp_path, cli, name):
    trial = Trial(tmp_path, "rounds=4", "cohort.sampling=cyclic" if name == "dp-ftrl" else "cohort.sampling=all")
    clients = ["cohort.clients=3"] if name == "dp-ftrl" else []
    result = train(*trial.prepare(f'transforms.{name}={{"noise_multiplier": 0.5}}', *clients))
    code, data = cli("audit", result.directory.path, "--canaries", 300)
    assert (code, data["rounds"]) == (int(data["broken"]), 4)
    assert data["claim"] == pytest.approx(result.summary["transforms"][name]["epsilon"])


def test_a_run_is_audited_with_the_noise_and_the_rounds_that_it_had(tmp_path, cli):
    trial = Trial(tmp_path, "rounds=5")
    budget = epsilon({Release("all", 4.0): 2}, 1e-5, "add-remove")
    options = json.dumps({"noise_multiplier": 4.0, "target_epsilon": budget})
    result = train(*trial.prepare(f"transforms.dp={options}"))
    code, data = cli("audit", result.directory.path, "--canaries", 300)
    assert (code, data["rounds"]) == (int(data["broken"]), 2)
    assert data["claim"] == pytest.approx(budget)

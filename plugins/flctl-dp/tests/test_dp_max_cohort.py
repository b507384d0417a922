"""Poisson sampling with cohorts that are cut: accounted as dp-accounting has it, and enforced by the sampler."""

import json
from itertools import product
from math import comb

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld
from dp_accounting.pld import privacy_loss_distribution as losses
from flctl import ConfigError, IncompatibleError
from flctl.cli import run as run_cli
from flctl.server.training import train
from flctl.testing.trial import Trial
from scipy import stats

from flctl_dp.accounting.accountants import coarse_epsilon, epsilon, gaussian_epsilon, guarantee, supports
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.releases import Release
from flctl_dp.ledgers.ledger import LedgerFile

NEIGHBOURS = dp_accounting.NeighboringRelation


def cut(noise, rate=0.5, most=2, population=4):
    return Release("poisson", noise, rate=rate, population=population, max_cohort=most)


def reference(relation, clients, release, rounds, delta):
    accountant = pld.PLDAccountant(relation)
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        clients, release.rate, release.max_cohort, release.noise_multiplier
    )
    accountant.compose(event, rounds)
    return accountant.get_epsilon(delta)


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "most"), [(1, 2), (5, 60), (5, 70)])
def test_it_costs_what_the_reference_accountant_says(rounds, most):
    release = cut(2.0, 0.05, most, 1000)
    found = epsilon({release: rounds}, 1e-5, "zero-out")
    assert found == pytest.approx(reference(NEIGHBOURS.REPLACE_SPECIAL, 1000, release, rounds, 1e-5), rel=2e-3)
    if most > 50:  # a cut that is rare costs a little; one that is always made hides who was drawn
        assert found > epsilon({Release("poisson", 2.0, rate=0.05): rounds}, 1e-5, "zero-out")


@pytest.mark.slow
def test_who_may_join_is_counted_too():
    """Under add-remove the larger population may be this one, or this one and one client more."""
    both = [reference(NEIGHBOURS.ADD_OR_REMOVE_ONE, clients, cut(4.0), 3, 1e-5) for clients in (4, 5)]
    assert epsilon({cut(4.0): 3}, 1e-5, "add-remove") == pytest.approx(max(both), rel=2e-3)
    assert both[0] != pytest.approx(both[1], rel=0.01)


def mixture(values, rate, most):
    """Sum -> probability, where each value is drawn with `rate`, and of more than `most` a uniform choice is kept."""
    found = {}
    for drawn in product((0, 1), repeat=len(values)):
        chosen = np.flatnonzero(drawn)
        chance = rate ** len(chosen) * (1 - rate) ** (len(values) - len(chosen))
        kept = [chosen] if len(chosen) <= most else subsets(chosen, most)
        for one in kept:
            total = sum(values[place] for place in one)
            found[total] = found.get(total, 0.0) + chance / len(kept)
    return found


def subsets(chosen, most):
    from itertools import combinations

    found = list(combinations(chosen, most))
    assert len(found) == comb(len(chosen), most)
    return found


def exceeds(first, second, eps, noise):
    """The integral of (P - e^eps Q)+, for mixtures of Gaussians of standard deviation `noise`."""
    at = np.linspace(-30, 30, 120_001)
    densities = [sum(p * stats.norm.pdf(at, total, noise) for total, p in one.items()) for one in (first, second)]
    return float(np.maximum(densities[0] - np.exp(eps) * densities[1], 0).sum() * (at[1] - at[0]))


@pytest.mark.slow
@pytest.mark.parametrize("others", [(-1, -1, -1), (0, 0, 0), (-1, 1, 0)])
@pytest.mark.parametrize(
    ("rate", "most"),
    [(0.5, 2), (1.0, 2), (0.9, 3)],
)
def test_no_pair_of_neighbours_is_told_apart_better_than_that(others, rate, most):
    """By integration, in one dimension: four clients, one of whom is left out, counts as nothing, or turns round."""
    noise, delta = 2.0, 0.01
    release = cut(noise, rate, most)
    pairs = {
        "add-remove": (mixture((1, *others), rate, most), mixture(others, rate, most)),
        "zero-out": (mixture((1, *others), rate, most), mixture((0, *others), rate, most)),
        "replace-one": (mixture((1, *others), rate, most), mixture((-1, *others), rate, most)),
    }
    for relation, (first, second) in pairs.items():
        claimed = epsilon({release: 1}, delta, relation)
        assert exceeds(first, second, claimed, noise) <= delta
        assert exceeds(second, first, claimed, noise) <= delta


def test_add_remove_counts_the_population_with_one_client_more():
    release = Release("poisson", 2.0, rate=0.3, population=12, max_cohort=4)
    alike = {"neighboring_relation": NEIGHBOURS.ADD_OR_REMOVE_ONE, "value_discretization_interval": 1e-3}
    smaller, larger = (
        losses.from_truncated_subsampled_gaussian_mechanism(size, 0.3, 4, 2.0, **alike).get_epsilon_for_delta(1e-4)
        for size in (12, 13)
    )
    assert coarse_epsilon({release: 1}, 1e-4, "add-remove") == pytest.approx(max(smaller, larger), rel=1e-6)
    assert larger > smaller


def test_renyi_dp_is_refused():
    assert not supports({cut(1.0): 1}, "add-remove", "rdp")
    for accountant, noise in (("rdp", 1.0), ("pld", 0.2)):
        with pytest.raises(IncompatibleError, match="without a limit on cohorts"):
            epsilon({cut(noise): 1}, 1e-5, "add-remove", accountant=accountant)


def test_the_server_sees_who_was_kept():
    found = guarantee({cut(2.0): 9}, 1e-5, "add-remove", "observer")
    assert (found.epsilon, found.relation) == (pytest.approx(gaussian_epsilon(1.5, 1e-5)), "zero-out")


@pytest.mark.parametrize("wrong", [{"max_cohort": 5}, {"max_cohort": -1}, {"sampling": "all"}])
def test_cuts_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be cut"):
        Release(**{**cut(1.0).fields(), **wrong})


@pytest.mark.slow
def test_calibrated_noise_never_exceeds_the_target():
    release = cut(1.0, 0.05, 60, 1000)
    noise = calibrate(PlannedRounds(release, 10), PrivacyTarget(0.3, 1e-5, "zero-out"))
    assert epsilon({cut(noise, 0.05, 60, 1000): 10}, 1e-5, "zero-out") <= 0.3
    assert epsilon({cut(noise * 0.995, 0.05, 60, 1000): 10}, 1e-5, "zero-out") > 0.3


def test_a_run_is_accounted_with_its_cut_and_divides_by_what_is_expected(tmp_path):
    trial = Trial(tmp_path, "rounds=4")
    cohort = ["cohort.sampling=poisson", "cohort.rate=0.5", "cohort.max_cohort=3"]
    run, directory = trial.prepare(*cohort, 'transforms.dp={"noise_multiplier": 4.0}')
    sizes = np.minimum(np.arange(10), 3) @ stats.binom.pmf(np.arange(10), 9, 0.5)
    assert run.cohort_size == pytest.approx(sizes)
    result = train(run, directory)
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    assert dict(ledger.releases()) == {cut(4.0, 0.5, 3, 9): 4}
    assert "Poisson q=0.5 cut to 3 of 9 z=4 T=4, PLD, against" in result.summary["transforms"]["dp"]["statement"]
    assert max(line["asked"] for line in directory.lines()) <= 3


PLAN = ["dp", "plan", "--population", "1000", "--cohort", "50", "--rounds", "5", "--noise-multiplier", "2"]


@pytest.mark.slow
def test_a_plan_takes_a_cut(capsys):
    assert run_cli([*PLAN, "--max-cohort", "60", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["epsilon"] == epsilon({cut(2.0, 0.05, 60, 1000): 5}, 1e-5, "add-remove")


def test_a_plan_refuses_a_cut_of_cohorts_of_all_clients(capsys):
    assert run_cli([*PLAN, "--max-cohort", "60", "--sampling", "all", "--json"]) == 2
    assert "no effect" in json.loads(capsys.readouterr().out)["error"]["message"]

"""Epsilon against dp-accounting itself, against published figures, and against formulas done by hand."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp
from flctl import ConfigError, IncompatibleError, IntegrityError, PrivacyBudgetError
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from flctl_dp.accounting import calibration
from flctl_dp.accounting.accountants import epsilon, gaussian_epsilon, guarantee, quick_epsilon
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, affordable, calibrate, together
from flctl_dp.accounting.releases import Release

NEIGHBOURS = dp_accounting.NeighboringRelation


def poisson(rate, noise):
    return Release("poisson", noise, rate=rate)


def reference(accountant, relation, events, delta):
    made = accountant(neighboring_relation=relation)
    for event, count in events:
        made.compose(event, count)
    return made.get_epsilon(delta)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta"),
    [
        (0.1, 2.0, 50, 1e-5),
        pytest.param(256 / 60000, 1.1, 14062, 1e-5, marks=pytest.mark.slow),
        pytest.param(0.01, 0.8, 500, 1e-6, marks=pytest.mark.slow),
        pytest.param(0.5, 4.0, 10, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_poisson_rounds_cost_what_the_reference_accountants_say(rate, noise, rounds, delta):
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    both = {by: epsilon({poisson(rate, noise): rounds}, delta, "add-remove", accountant=by) for by in ("pld", "rdp")}
    expected = {
        "pld": reference(pld.PLDAccountant, NEIGHBOURS.ADD_OR_REMOVE_ONE, [(event, rounds)], delta),
        "rdp": reference(rdp.RdpAccountant, NEIGHBOURS.ADD_OR_REMOVE_ONE, [(event, rounds)], delta),
    }
    assert both["pld"] == pytest.approx(expected["pld"], rel=2e-3)
    assert both["rdp"] == pytest.approx(expected["rdp"], rel=5e-3)
    assert both["pld"] < both["rdp"]


@pytest.mark.parametrize("sampling", [{"sampling": "poisson", "rate": 0.1}, {"sampling": "all"}])
def test_noise_beyond_reckoning_is_refused_and_up_to_there_has_an_epsilon(sampling):
    for noise in (0.0, 1e-300, 1e300, math.inf, math.nan):
        with pytest.raises(ConfigError, match="above 0, from 1e-09 to"):
            Release(noise_multiplier=noise, **sampling)
    loud, quiet = ({Release(noise_multiplier=noise, **sampling): 10} for noise in (1e9, 1e-9))
    assert 0 <= epsilon(loud, 1e-5, "add-remove") < 1e-3
    assert epsilon(quiet, 1e-5, "add-remove") > 1e12


def test_deltas_below_what_distributions_keep_have_the_epsilon_of_renyi_dp():
    releases = {poisson(0.1, 1.0): 10}
    found = guarantee(releases, 1e-30, "add-remove")
    assert found.accountant == "rdp"
    assert found.epsilon == epsilon(releases, 1e-30, "add-remove", accountant="rdp") < math.inf
    assert found.epsilon > guarantee(releases, 1e-9, "add-remove").epsilon


def test_the_example_of_every_dp_sgd_paper():
    """60,000 records, lots of 256, noise 1.1, 60 epochs: epsilon 2.38 by PLD, 2.60 by RDP."""
    both = [epsilon({poisson(256 / 60000, 1.1): 14062}, 1e-5, "add-remove", accountant=by) for by in ("pld", "rdp")]
    assert [round(value, 2) for value in both] == [2.38, 2.6]


@pytest.mark.slow
def test_rounds_of_several_kinds_add_up_as_the_reference_says():
    mixed = {poisson(0.01, 1.0): 300, poisson(0.02, 0.8): 50, Release("all", 20.0): 5}
    gaussian = dp_accounting.GaussianDpEvent
    events = [
        (dp_accounting.PoissonSampledDpEvent(0.01, gaussian(1.0)), 300),
        (dp_accounting.PoissonSampledDpEvent(0.02, gaussian(0.8)), 50),
        (gaussian(20.0), 5),
    ]
    expected = reference(pld.PLDAccountant, NEIGHBOURS.ADD_OR_REMOVE_ONE, events, 1e-5)
    assert epsilon(mixed, 1e-5, "add-remove") == pytest.approx(expected, rel=2e-3)


def test_gboards_zcdp_figure():
    """rho = 0.81 at delta = 1e-10 is published as epsilon 8.9 (by zCDP); a Gaussian of that rho is a little better."""
    rho = 0.81
    noise = math.sqrt(1 / (2 * rho))
    by_zcdp = reference(rdp.RdpAccountant, NEIGHBOURS.ADD_OR_REMOVE_ONE, [(dp_accounting.ZCDpEvent(rho), 1)], 1e-10)
    assert round(by_zcdp, 1) == 8.9
    assert 8.0 < epsilon({Release("all", noise): 1}, 1e-10, "add-remove") < by_zcdp


def test_tensorflow_federateds_tutorial():
    """N = 3383, T = 100, noise of 0.01 a client: 120 clients a round are the fewest for (2, 1e-5), by RDP."""
    found = {m: epsilon({poisson(m / 3383, 0.01 * m): 100}, 1e-5, "add-remove", accountant="rdp") for m in (119, 120)}
    assert found[120] < 2 < found[119]


def test_gaussians_alone_are_exact():
    """Balle and Wang's formula at the epsilon found, and dp-accounting's PLD from above."""
    for noise, rounds in ((1.0, 1), (5.0, 10), (30.0, 400)):
        mu = math.sqrt(rounds) / noise
        found = epsilon({Release("all", noise): rounds}, 1e-5, "add-remove")
        delta = stats.norm.cdf(mu / 2 - found / mu) - math.exp(found) * stats.norm.cdf(-mu / 2 - found / mu)
        assert delta == pytest.approx(1e-5, rel=1e-6)
        event = [(dp_accounting.GaussianDpEvent(noise), rounds)]
        assert found == pytest.approx(reference(pld.PLDAccountant, NEIGHBOURS.ADD_OR_REMOVE_ONE, event, 1e-5), rel=2e-3)


def test_gaussians_of_several_kinds_add_up_in_squares():
    """Three of noise 4 and two of noise 5: mu^2 = 3 / 16 + 2 / 25."""
    found = epsilon({Release("all", 4.0): 3, Release("all", 5.0): 2}, 1e-5, "add-remove")
    assert found == gaussian_epsilon(math.sqrt(3 / 16 + 2 / 25), 1e-5)


def test_replacing_a_client_moves_the_sum_twice_as_far():
    for accountant in ("pld", "rdp"):
        replaced = epsilon({Release("all", 4.0): 10}, 1e-5, "replace-one", accountant=accountant)
        assert replaced == epsilon({Release("all", 2.0): 10}, 1e-5, "add-remove", accountant=accountant)
    event = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(2.0))
    expected = reference(pld.PLDAccountant, NEIGHBOURS.REPLACE_ONE, [(event, 100)], 1e-5)
    found = epsilon({poisson(0.01, 2.0): 100}, 1e-5, "replace-one")
    assert found == pytest.approx(expected, rel=2e-3)
    assert found > 1.5 * epsilon({poisson(0.01, 2.0): 100}, 1e-5, "add-remove")


def test_fixed_cohorts_are_accounted_with_half_the_noise():
    """Sampling without replacement is amplified under replace-one alone, and there the sensitivity is 2 C."""
    release = Release("fixed", 4.0, cohort=50, population=1000)
    event = dp_accounting.SampledWithoutReplacementDpEvent(1000, 50, dp_accounting.GaussianDpEvent(2.0))
    found = guarantee({release: 20}, 1e-5, "replace-one", accountant="rdp")
    assert found.accountant == "rdp"
    expected = reference(rdp.RdpAccountant, NEIGHBOURS.REPLACE_ONE, [(event, 20)], 1e-5)
    assert found.epsilon == pytest.approx(expected, rel=5e-3)
    assert epsilon({release: 20}, 1e-5, "zero-out") == epsilon({Release("all", 4.0): 20}, 1e-5, "zero-out")


def test_poisson_is_never_used_for_a_fixed_cohort():
    fixed, drawn = Release("fixed", 4.0, cohort=50, population=1000), poisson(0.05, 4.0)
    assert epsilon({fixed: 20}, 1e-5, "replace-one") > epsilon({drawn: 20}, 1e-5, "add-remove")
    with pytest.raises(IncompatibleError, match="changes the selection of others"):
        epsilon({fixed: 20}, 1e-5, "add-remove")


def test_an_observer_of_cohorts_gets_no_amplification():
    found = guarantee({poisson(0.01, 2.0): 100}, 1e-5, "add-remove", "observer")
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(100) / 2.0, 1e-5))
    assert found.relation == "zero-out"
    assert found.epsilon > epsilon({poisson(0.01, 2.0): 100}, 1e-5, "add-remove")


def test_nothing_released_costs_nothing():
    assert epsilon({}, 1e-5, "add-remove") == 0
    assert gaussian_epsilon(1e-9, 1e-5) == 0


def test_tiny_noise_is_accounted_too():
    assert epsilon({poisson(0.1, 0.1): 10}, 1e-5, "add-remove") > 100
    assert math.isfinite(epsilon({Release("all", 1e-3): 1}, 1e-5, "add-remove"))


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        epsilon({poisson(0.1, 1.0): 1}, delta, "add-remove")


def test_what_has_no_reference_is_refused():
    with pytest.raises(IncompatibleError, match="Renyi"):
        epsilon({poisson(0.1, 1.0): 1}, 1e-5, "replace-one", accountant="rdp")
    fixed = Release("fixed", 0.5, cohort=50, population=1000)
    with pytest.raises(IncompatibleError, match="Renyi"):
        epsilon({poisson(0.1, 1.0): 1, fixed: 1}, 1e-5, "replace-one")


@pytest.mark.parametrize(
    "wrong", [{"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}, {"rate": 0.0}, {"rate": 1.5}]
)
def test_releases_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Release(**{"sampling": "poisson", "noise_multiplier": 1.0, "rate": 0.1, **wrong})
    with pytest.raises(IntegrityError):
        Release.of({**poisson(0.1, 1.0).fields(), **wrong}, "line 3")


@given(rate=st.floats(1e-3, 0.5), noise=st.floats(0.5, 8), rounds=st.integers(1, 300), more=st.floats(1.05, 2))
@settings(deadline=None, max_examples=2)
def test_epsilon_grows_with_rounds_and_rate_and_falls_with_noise(rate, noise, rounds, more):
    def spent(rate, noise, rounds):
        return epsilon({poisson(rate, noise): rounds}, 1e-5, "add-remove", accountant="rdp")

    base = spent(rate, noise, rounds)
    assume(base < 50)  # beyond, the orders of the moments are too few, and the bound is loose by a few per cent
    assert spent(rate, noise, math.ceil(rounds * more)) >= base
    assert spent(rate, noise * more, rounds) <= base * (1 + 1e-9)
    assert spent(min(1.0, rate * more), noise, rounds) >= base * (1 - 1e-9)


@given(mu=st.floats(1e-3, 50), more=st.floats(1, 3), delta=st.floats(1e-12, 0.1))
@settings(deadline=None, max_examples=50)
def test_gaussian_epsilon_is_monotone(mu, more, delta):
    assert gaussian_epsilon(mu * more, delta) >= gaussian_epsilon(mu, delta) - 1e-12
    assert gaussian_epsilon(mu, delta / 2) >= gaussian_epsilon(mu, delta)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("release", "relation", "target"),
    [
        (poisson(0.02, 1.0), "add-remove", 1.0),
        (poisson(0.02, 1.0), "add-remove", 8.0),
        (Release("fixed", 1.0, cohort=20, population=1000), "replace-one", 2.0),
        (Release("all", 1.0), "add-remove", 1.0),
        (Release("all", 1.0), "add-remove", 8.0),
    ],
)
def test_calibrated_noise_meets_the_target_and_never_exceeds_it(monkeypatch, release, relation, target):
    """Quicker accountants narrow the search down, so that the exact one judges at most four noise multipliers; for
    Gaussians all are quick."""
    tried, exact = set(), calibration.epsilon
    monkeypatch.setattr(calibration, "epsilon", lambda r, *rest, **by: tried.add(*r) or exact(r, *rest, **by))
    noise = calibrate(PlannedRounds(release, 60), PrivacyTarget(target, 1e-5, relation))
    assert len(tried) <= 4 or release.sampling == "all"
    reached = epsilon({Release(**{**release.fields(), "noise_multiplier": noise}): 60}, 1e-5, relation)
    less = epsilon({Release(**{**release.fields(), "noise_multiplier": noise * 0.995}): 60}, 1e-5, relation)
    assert reached <= target < less


@pytest.mark.slow
def test_calibration_takes_what_is_spent_into_account():
    spent = {poisson(0.02, 1.0): 50}
    noise = calibrate(PlannedRounds.after(spent, poisson(0.02, 1.0), 50), PrivacyTarget(3.0, 1e-5, "add-remove"))
    assert epsilon(together(spent, poisson(0.02, noise), 50), 1e-5, "add-remove") <= 3.0
    assert noise > calibrate(PlannedRounds(poisson(0.02, 1.0), 50), PrivacyTarget(3.0, 1e-5, "add-remove"))
    with pytest.raises(PrivacyBudgetError, match="nothing of it is left"):
        calibrate(PlannedRounds.after(spent, poisson(0.02, 1.0), 50), PrivacyTarget(0.5, 1e-5, "add-remove"))


@pytest.mark.parametrize("release", [Release("all", 20.0), pytest.param(poisson(0.05, 1.0), marks=pytest.mark.slow)])
def test_a_budget_holds_as_many_rounds_as_fit_and_no_more(release):
    count = affordable(PlannedRounds(release, 1000), PrivacyTarget(2.0, 1e-5, "add-remove"))
    assert epsilon({release: count}, 1e-5, "add-remove") <= 2.0 < epsilon({release: count + 1}, 1e-5, "add-remove")
    assert affordable(PlannedRounds.after({release: count}, release, 1), PrivacyTarget(2.0, 1e-5, "add-remove")) == 0
    assert affordable(PlannedRounds(release, 3), PrivacyTarget(2.0, 1e-5, "add-remove")) == 3


@pytest.mark.parametrize(
    ("releases", "relation", "within"),
    [
        ({poisson(0.05, 1.0): 30}, "add-remove", 0.3),
        ({poisson(0.05, 4.0): 30}, "replace-one", 0.01),
        ({Release("poisson", 4.0, rate=0.05, population=1000, max_cohort=70): 30}, "zero-out", 0.01),
        ({Release("all", 4.0): 3}, "add-remove", 1e-12),
        ({Release("fixed", 4.0, cohort=50, population=1000): 20}, "replace-one", 1.1),
    ],
)
def test_what_is_found_quickly_is_no_smaller(releases, relation, within):
    """By Renyi DP, or in steps of a thousandth where that is not known."""
    exact, quick = epsilon(releases, 1e-5, relation), quick_epsilon(releases, 1e-5, relation)
    assert exact * (1 - 1e-9) <= quick <= exact * (1 + within)


def test_numbers_do_not_depend_on_the_order_of_rounds():
    one, other = {poisson(0.01, 1.0): 5, poisson(0.02, 1.0): 7}, {poisson(0.02, 1.0): 7, poisson(0.01, 1.0): 5}
    assert np.isclose(epsilon(one, 1e-5, "add-remove"), epsilon(other, 1e-5, "add-remove"), rtol=0)

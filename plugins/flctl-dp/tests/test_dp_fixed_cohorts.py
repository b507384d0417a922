"""Cohorts of a fixed size: the privacy loss distribution of the substitution pair."""

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as losses
from scipy.stats import norm

from flctl_dp.accounting.accountants import epsilon, guarantee, supports
from flctl_dp.accounting.fixed_size import fixed_size_distribution
from flctl_dp.accounting.releases import Release

REPLACE = "replace-one"


def fixed(noise, cohort=100, population=1000):
    return Release("fixed", noise, cohort=cohort, population=population)


@pytest.mark.parametrize(("noise", "rounds", "highest"), [(2.0, 100, 7.81), (4.0, 100, 2.55)])
def test_epsilon_is_about_half_of_that_by_renyi_dp(noise, rounds, highest):
    found = guarantee({fixed(noise): rounds}, 1e-5, REPLACE)
    assert found.accountant == "pld"
    assert found.epsilon < highest
    assert found.epsilon < 0.57 * epsilon({fixed(noise): rounds}, 1e-5, REPLACE, accountant="rdp")


def test_one_round_is_the_hockey_stick_divergence_of_the_pair():
    """delta(eps) of R = 0.9 N(0, z) + 0.1 N(2, z) against Q = N(0, z), by quadrature over a fine grid."""
    z, share, x = 2.0, 0.1, np.linspace(-30, 40, 2_000_001)
    q, p = norm.pdf(x, 0, z), norm.pdf(x, 2, z)
    r = (1 - share) * q + share * p
    for eps in (0.05, 0.3, 1.0):
        expected = np.trapezoid(np.maximum(r - np.exp(eps) * q, 0), x)
        found = fixed_size_distribution(z, 100, 1000, 1e-3).get_delta_for_epsilon(eps)
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_other_direction_is_covered_where_it_is_the_larger_one():
    """At alpha = e^-0.5, the divergence of Q from R is above that of R from Q."""
    z, share, x = 2.0, 0.1, np.linspace(-30, 40, 2_000_001)
    q, p = norm.pdf(x, 0, z), norm.pdf(x, 2, z)
    r = (1 - share) * q + share * p
    backward, forward = (np.trapezoid(np.maximum(one, 0), x) for one in (q - np.exp(-0.5) * r, r - np.exp(-0.5) * q))
    found = fixed_size_distribution(z, 100, 1000, 1e-3).get_delta_for_epsilon(-0.5)
    assert backward > 1.0001 * forward
    assert found >= backward * (1 - 1e-9)


def test_rounds_in_either_direction_cost_no_more_than_is_accounted():
    """An adversary may take the pair (R, Q) in one round and (Q, R) in the next: neither alone bounds the mixture."""
    one_way = losses.from_gaussian_mechanism(0.5, sampling_prob=0.2, value_discretization_interval=1e-3)
    other_way = losses.PrivacyLossDistribution(one_way._pmf_add, one_way._pmf_remove)
    mixed = one_way.compose(other_way).self_compose(5).get_epsilon_for_delta(1e-5)
    forward = one_way.self_compose(10).get_epsilon_for_delta(1e-5)
    found = fixed_size_distribution(1.0, 20, 100, 1e-3).self_compose(10).get_epsilon_for_delta(1e-5)
    assert found >= max(mixed, forward)
    assert found < epsilon({fixed(1.0, 20, 100): 10}, 1e-5, REPLACE, accountant="rdp")


def test_too_little_noise_for_a_distribution_is_accounted_by_renyi_dp():
    assert not supports({fixed(0.5): 1}, REPLACE, "pld")
    assert guarantee({fixed(0.5): 2}, 1e-5, REPLACE).accountant == "rdp"


def test_without_sampling_or_for_zero_out_nothing_is_amplified():
    assert guarantee({fixed(2.0, 10, 10): 3}, 1e-5, REPLACE).accountant == "gaussian"
    assert guarantee({fixed(2.0): 3}, 1e-5, "zero-out").accountant == "gaussian"


def test_rounds_of_two_sizes_add_up():
    both = epsilon({fixed(2.0): 5, fixed(3.0, 50): 5}, 1e-5, REPLACE)
    assert epsilon({fixed(2.0): 5}, 1e-5, REPLACE) < both < epsilon({fixed(2.0): 10}, 1e-5, REPLACE)

"""Quick bounds of epsilon: never below the accountants, and near them."""

import pytest

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.rdp_bounds import bound, least_noise
from flctl_dp.accounting.releases import Release


@pytest.mark.parametrize(
    ("rate", "noise", "count"), [(0.01, 1.0, 1000), (0.1, 2.0, 300), (0.5, 4.0, 50), (0.9, 0.8, 3), (0.004, 0.7, 5000)]
)
def test_bounds_are_no_smaller_and_close(rate, noise, count):
    releases = {Release("poisson", noise, rate=rate): count, Release("poisson", 6.0, rate=1.0): 2}
    exact = epsilon(releases, 1e-5, "add-remove", accountant="rdp")
    assert exact * (1 - 1e-9) <= bound(releases, 1e-5, "add-remove") <= 1.1 * exact


def test_without_sampling_and_for_replaced_rows_it_is_the_accountant():
    everything, some = {Release("poisson", 2.0, rate=1.0): 5}, {Release("poisson", 2.0, rate=0.3): 5}
    assert bound(everything, 1e-5, "add-remove") == epsilon(everything, 1e-5, "add-remove")
    mixed = {**some, Release("all", 2.0): 3}
    assert bound(mixed, 1e-5, "add-remove") == epsilon(mixed, 1e-5, "add-remove")
    assert bound(some, 1e-5, "replace-one") == epsilon(some, 1e-5, "replace-one")


def test_the_least_noise_keeps_to_the_target_after_what_was_spent():
    release, past = Release("poisson", 1.0, rate=0.1), {Release("poisson", 3.0, rate=0.2): 10}
    noise = least_noise(release, 100, 4.0, 1e-5, "add-remove", past)
    assert 3.8 < bound({**past, Release("poisson", noise, rate=0.1): 100}, 1e-5, "add-remove") <= 4.0
    assert least_noise(release, 100, 4.0, 1e-5, "add-remove", {}) < noise
    assert least_noise(release, 10**9, 0.1, 1e-5, "add-remove", {}) == 0.0

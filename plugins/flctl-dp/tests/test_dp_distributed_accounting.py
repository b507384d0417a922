"""What distributed noise is charged, against the exact distributions of small sums: convolved, shifted, compared."""

import math
from functools import reduce

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, rdp
from flctl import IncompatibleError
from scipy import special

from flctl_dp.accounting.accountants import epsilon, guarantee, supports
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.releases import Release
from flctl_dp.accounting.summed_release import SummedRelease, divergence, inflation, release_of

ORDERS = [1.1, 1.5, 2, 2.5, 3, 5, 8, 16, 32, 63]
DELTA = 1e-5


def small(mechanism, variance, survivors, reach, dimension, **changes):
    """A release on a lattice so coarse that its sum can be written down."""
    values = {"noise_multiplier": 1.0, "cohort": survivors, "survivors": survivors, "bits": 32}
    made = SummedRelease(mechanism=mechanism, dimension=dimension, **{**values, **changes})
    return release_of({**made.fields(), "variance": variance, "reach": reach}, "here")


def masses(mechanism, variance, count):
    """The exact masses of a sum of `count` shares, on -L ... L."""
    half = math.ceil(60 * math.sqrt(variance) + 40)
    x = np.arange(-half, half + 1)
    if mechanism == "skellam":
        one = special.ive(np.abs(x), variance)
    else:
        one = np.exp(-(x**2) / (2 * variance))
    return reduce(np.convolve, [one / one.sum()] * count)


def renyi(masses, shift, order):
    """D_order(P + shift || P), of which both directions are the same by symmetry."""
    moved, still = masses[: masses.size - shift], masses[shift:]
    usable = (moved > 1e-290) & (still > 1e-290)
    logs = order * np.log(moved[usable]) + (1 - order) * np.log(still[usable])
    return float(special.logsumexp(logs)) / (order - 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize(("variance", "survivors"), [(1, 1), (1, 2), (1, 5), (4, 2), (9, 3), (25, 4)])
def test_the_bound_is_above_the_divergence_of_the_exact_sum(mechanism, variance, survivors, order):
    """All moves of up to three steps in one value, and of up to |(2, 2)| in two values, whose divergences add up."""
    exact = masses(mechanism, variance, survivors)
    by_shift = [0.0, *(renyi(exact, shift, order) for shift in (1, 2, 3))]
    for reach in (1, 4, 9):
        bound = divergence(small(mechanism, variance, survivors, reach, 1), order, "zero-out")
        assert by_shift[math.isqrt(reach)] <= bound * (1 + 1e-9)
    for one, other in ((0, 1), (1, 1), (2, 1), (2, 2)):
        reach = one**2 + other**2
        bound = divergence(small(mechanism, variance, survivors, reach, 2), order, "zero-out")
        assert by_shift[one] + by_shift[other] <= bound * (1 + 1e-9)


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_the_bound_is_close_where_noise_is_many_cells_wide(mechanism):
    """Else any number would do: 100 cells of noise for a move of 100, against a Gaussian's order / 2."""
    exact = masses(mechanism, 2500, 4)
    for order in (2, 8, 32):
        bound = divergence(small(mechanism, 2500, 4, 10_000, 1), order, "zero-out")
        assert renyi(exact, 100, order) <= bound <= 1.02 * order / 2


def deltas(masses, shift, times, eps):
    """The exact delta of `times` releases at `eps`: the hockey-stick divergence of the product, by its losses."""
    moved, still = masses[: masses.size - shift], masses[shift:]
    usable = (moved > 1e-200) & (still > 1e-200)
    moved, losses = moved[usable], np.log(moved[usable] / still[usable])
    all_losses, chance = losses, moved
    for _ in range(times - 1):
        all_losses = (all_losses[:, None] + losses[None]).ravel()
        chance = (chance[:, None] * moved[None]).ravel()
    return float((chance * -np.expm1(np.minimum(eps - all_losses, 0))).sum())


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize(("variance", "survivors", "shift"), [(4, 3, 2), (9, 2, 2), (25, 2, 3)])
@pytest.mark.parametrize("times", [1, 2])
def test_epsilon_is_no_less_than_that_of_the_exact_privacy_loss(mechanism, variance, survivors, shift, times):
    release = small(mechanism, variance, survivors, shift**2, 1)
    found = epsilon({release: times}, DELTA, "zero-out")
    exact = masses(mechanism, variance, survivors)
    assert deltas(exact, shift, times, found) <= DELTA
    assert deltas(exact, shift, times, 0.7 * found) > DELTA, "an epsilon this far above the exact one would be useless"


def test_who_is_replaced_moves_the_sum_twice_as_far():
    """16 = 4 * 4: one value, moved by 4 instead of 2."""
    near, far = (small("discrete-gaussian", 25, 2, reach, 1) for reach in (4, 16))
    for order in ORDERS:
        assert divergence(near, order, "replace-one") == divergence(far, order, "zero-out")


def test_tau_by_hand():
    """Two shares of variance 1: 10 exp(-pi^2)."""
    assert inflation(1, 2) == pytest.approx(10 * math.exp(-(math.pi**2)))
    assert inflation(1, 1) == 0.0
    assert inflation(10_000, 100) < 1e-300


def release(**changes):
    values = {"noise_multiplier": 1.0, "cohort": 100, "survivors": 80, "dimension": 1 << 16, "bits": 20}
    return SummedRelease(**{**values, **changes})


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_on_a_fine_lattice_epsilon_is_that_of_renyi_dps_gaussian(mechanism):
    """Within two parts in a hundred: what rounding adds, and Skellam's correction and whole orders."""
    ledger = rdp.RdpAccountant()
    ledger.compose(GaussianDpEvent(2.0), 2)
    found = epsilon({release(noise_multiplier=2.0, bits=32, mechanism=mechanism): 2}, DELTA, "zero-out")
    assert ledger.get_epsilon(DELTA) <= found <= 1.02 * ledger.get_epsilon(DELTA)


def test_colluding_clients_noise_counts_for_nothing():
    """Of 80 survivors 20 collude: the same lattice as if 60 survived."""
    told, fewer = release(colluding=20), release(survivors=60)
    assert (told.variance, told.reach) == (fewer.variance, fewer.reach)
    for order in ORDERS:
        assert divergence(told, order, "zero-out") == divergence(fewer, order, "zero-out")


def test_no_sampling_is_credited_and_the_server_sees_what_everybody_sees():
    releases = {release(): 10}
    found, seen = (guarantee(releases, DELTA, "zero-out", adversary) for adversary in ("release", "observer"))
    assert (found.epsilon, found.accountant) == (seen.epsilon, "rdp")
    with pytest.raises(IncompatibleError):
        guarantee(releases, DELTA, "add-remove")


def test_it_adds_up_with_other_releases_by_renyi_dp_and_not_by_distributions():
    mixed = {release(): 10, Release("poisson", 1.0, rate=0.01): 100}
    assert not supports(mixed, "zero-out", "pld")
    assert supports(mixed, "zero-out", "rdp")
    together = epsilon(mixed, DELTA, "zero-out")
    apart = [epsilon({one: count}, DELTA, "zero-out", accountant="rdp") for one, count in mixed.items()]
    assert max(apart) < together <= sum(apart)
    exposed = guarantee(mixed, DELTA, "zero-out", "observer").epsilon
    assert exposed == epsilon({release(): 10, Release("unsampled", 1.0): 100}, DELTA, "zero-out") > together


def test_calibrated_noise_keeps_to_the_target_and_is_found_on_its_own_lattice():
    noise = calibrate(PlannedRounds(release(), 30), PrivacyTarget(4.0, DELTA, "zero-out"))
    found, with_less = ({release(noise_multiplier=z): 30} for z in (noise, 0.99 * noise))
    assert epsilon(found, DELTA, "zero-out") <= 4.0 < epsilon(with_less, DELTA, "zero-out")


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_epsilon_falls_with_noise_and_grows_with_rounds(mechanism):
    found = [epsilon({release(noise_multiplier=z, mechanism=mechanism): 20}, DELTA, "zero-out") for z in (0.5, 1, 2, 5)]
    assert found == sorted(found, reverse=True)
    longer = [epsilon({release(mechanism=mechanism): rounds}, DELTA, "zero-out") for rounds in (1, 2, 10, 100)]
    assert longer == sorted(longer)


def test_cohorts_in_turn_cost_an_observer_no_more_beside_sums_of_clients_noise():
    """Rounds of DP-FTRL add up by their places, whoever sees the cohorts."""
    turns = Release("cyclic", 2.0, bands=3, separation=4, place=1).over(12)
    summed = SummedRelease(noise_multiplier=2.0, cohort=10, survivors=8, dimension=64, bits=20)
    found = [epsilon({**turns, summed: 1}, DELTA, "zero-out", adversary) for adversary in ("release", "observer")]
    assert found[0] == found[1]

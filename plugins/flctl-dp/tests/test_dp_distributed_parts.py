"""The parts of distributed noise: the rotation, the rounding with a bound, clients' shares, the choice of a lattice."""

import math

import numpy as np
import pytest
from flctl import ConfigError, IncompatibleError, IntegrityError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg, special, stats

from flctl_dp.accounting.releases import Release
from flctl_dp.accounting.summed_release import SummedRelease, release_of
from flctl_dp.noise.entropy import insecure_words, secure_words
from flctl_dp.noise.rotation import hadamard, padded, rotated, signs_of, unrotated
from flctl_dp.noise.shares import drawn_share, variances
from flctl_dp.noise.skellam import skellam_masses, skellam_table
from flctl_dp.noise.stochastic_rounding import reach_of, rounded


@pytest.mark.parametrize("size", [1, 2, 4, 64, 128, 256])
def test_the_transform_is_sylvesters_matrix_and_orthonormal(size):
    columns = np.stack([hadamard(row) for row in np.eye(size)], axis=1)
    np.testing.assert_allclose(columns, linalg.hadamard(size) / math.sqrt(size), atol=1e-12)
    np.testing.assert_allclose(columns @ columns, np.eye(size), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_a_turned_vector_keeps_its_length_and_comes_back(size, seed):
    rng = np.random.default_rng(seed)
    vector, signs = rng.normal(size=size), signs_of(rng, padded(size))
    turned = rotated(vector, signs)
    assert turned.size == padded(size) < 2 * size or size == 1
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(vector), rel=1e-12)
    np.testing.assert_allclose(unrotated(turned, signs, size), vector, atol=1e-12 * size)


def test_signs_are_fair_and_the_same_for_who_draws_from_the_same_stream():
    one, two = (signs_of(np.random.default_rng(3), 1 << 16) for _ in range(2))
    assert np.array_equal(one, two)
    assert set(one.tolist()) == {-1, 1}
    assert abs(one.mean()) < 5 / 256


def test_a_single_large_value_is_spread_over_all_coordinates():
    turned = rotated(np.array([100.0]), signs_of(np.random.default_rng(1), 1024))
    np.testing.assert_allclose(np.abs(turned), 100 / 32)


class Always:
    """Words that make every value round up, or none: the worst that chance can do."""

    def __init__(self, word):
        self.word = word

    def draw(self, count, dtype):
        return np.full(count, self.word, dtype)


@settings(deadline=None, max_examples=150)
@given(
    hnp.arrays(np.float64, st.integers(1, 70), elements=st.floats(-40, 40)),
    st.floats(0.01, 60),
    st.sampled_from([insecure_words(1), Always(0), Always(2**32 - 1)]),
)
def test_a_rounded_vector_is_never_longer_than_its_bound(vector, clip, words):
    norm = np.linalg.norm(vector)
    vector = vector * min(1.0, clip / norm) if norm else vector
    reach = reach_of(clip, vector.size)
    found = rounded(vector, reach, words)
    assert found.dtype == np.int64
    assert int((found.astype(object) ** 2).sum()) <= reach
    assert np.abs(found - vector).max() <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, 1e18])
def test_what_is_no_vector_within_the_bound_counts_as_zeros(bad):
    assert not rounded(np.array([1.0, bad, 0.5]), reach_of(3.0, 3), insecure_words(2)).any()


def test_the_bound_is_algorithm_1s_by_hand():
    """c = 10, D = 16: (10 + 4)^2 = 196; 100 + 4 + 1 (10 + 2) = 116. c = 0.1, D = 4: 2.1^2 = 4.41; 0.01 + 1 + 1.1."""
    assert (reach_of(10.0, 16), reach_of(0.1, 4)) == (116, 2)


def test_rounding_keeps_the_mean_and_takes_one_attempt_where_there_is_room():
    """A third, 2^16 times: the mean of ones and zeros is within five deviations of 1/3."""
    vector = np.full(1 << 16, 1 / 3)
    found = rounded(vector, reach_of(float(np.linalg.norm(vector)), vector.size), secure_words())
    assert set(found.tolist()) == {0, 1}
    assert abs(found.mean() - 1 / 3) < 5 * math.sqrt(2 / 9 / vector.size)


def test_attempts_that_are_too_long_are_thrown_away():
    """Bound 2 on four halves: of the 16 equally likely roundings the 11 with at most two ones are left, of mean
    28 / 44 of a half."""
    kept = [rounded(np.full(4, 0.5), 2, words) for words in [insecure_words(9)] for _ in range(4000)]
    assert max(int(one.sum()) for one in kept) == 2
    ones = sum(math.comb(4, k) * k for k in range(3)) / sum(math.comb(4, k) for k in range(3))
    assert np.mean([one.sum() for one in kept]) == pytest.approx(ones, abs=5 * 0.7 / math.sqrt(4000))


@pytest.mark.parametrize(("variance", "reach"), [(1, 40), (9, 60), (400, 200), (1024**2, 6000)])
def test_skellam_masses_are_modified_bessel_functions(variance, reach):
    found = skellam_masses(variance, reach)
    expected = special.ive(np.arange(reach + 1), variance) / special.ive(0, variance)
    usable = expected > 1e-250
    np.testing.assert_allclose(np.array([mass / found[0] for mass in found])[usable], expected[usable], rtol=1e-11)


@pytest.mark.parametrize("s", [1, 3, 50, 1024])
def test_the_skellam_table_draws_the_difference_of_two_poisson_numbers(s):
    drawn = skellam_table(s).draw(secure_words(), 200_000)
    assert drawn.var() == pytest.approx(s * s, rel=6 * math.sqrt((2 + 1 / s**2) / 200_000))
    assert abs(drawn.mean()) < 5 * s / math.sqrt(200_000)
    law = stats.skellam(s * s / 2, s * s / 2)
    edges = np.unique(np.round(np.linspace(-2.5 * s, 2.5 * s, 14)))
    counts, cells = np.searchsorted(np.sort(drawn), edges, side="right"), law.cdf(edges)
    observed = np.diff([0, *counts, drawn.size])
    assert stats.chisquare(observed, np.diff([0, *cells, 1]) * drawn.size).pvalue > 1e-4


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("place", [0, 99, 1022, 1023, 1024, 1026, -1])
def test_shares_have_the_variance_that_they_are_named_for(mechanism, place):
    variance, count = variances(mechanism)[place], 100_000
    drawn = drawn_share(mechanism, variance, secure_words(), count)
    # A discrete Gaussian of deviation 1 has a variance below 1 by 2e-7, and kurtosis 3; Skellam's is 3 + 1 / variance.
    assert drawn.var() == pytest.approx(variance, rel=6 * math.sqrt((2 + 1 / variance) / count))
    assert abs(drawn.mean()) < 5 * math.sqrt(variance / count)
    if variance > 10_000:
        assert stats.kstest(drawn / math.sqrt(variance), "norm").pvalue > 1e-4


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_variances_ascend_and_others_are_refused(mechanism):
    known = variances(mechanism)
    assert known == sorted(set(known))
    with pytest.raises(ValueError, match="no noise can be drawn"):
        drawn_share(mechanism, 1024**2 + 1, secure_words(), 3)


@pytest.mark.parametrize("s", [0, 1171])
def test_a_table_that_holds_no_tails_is_refused(s):
    with pytest.raises(ValueError, match="is too small for"):
        skellam_table(s)


def release(**changes):
    values = {"noise_multiplier": 1.0, "cohort": 100, "survivors": 80, "dimension": 1 << 18, "bits": 20}
    return SummedRelease(**{**values, **changes})


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.3, 20),
    st.integers(3, 300),
    st.floats(0.3, 1),
    st.integers(0, 20),
    st.sampled_from([16, 18, 20, 24, 32]),
)
def test_the_lattice_is_the_finest_that_the_words_hold(noise, cohort, share, power, bits):
    survivors = max(1, int(share * cohort))
    try:
        found = release(noise_multiplier=noise, cohort=cohort, survivors=survivors, dimension=1 << power, bits=bits)
    except IncompatibleError:
        assert bits <= 18
        return
    known = variances("discrete-gaussian")
    place, deviations = known.index(found.variance), math.sqrt(2 * math.log(2 * found.dimension * 2**40))

    def spread(variance):
        """Of all that is added up in one value, by hand."""
        clip = math.sqrt(variance * survivors) / noise
        return math.sqrt(cohort * variance + (cohort * clip) ** 2 / found.dimension + cohort / 4)

    assert spread(found.variance) * deviations <= 2 ** (bits - 1)
    if place + 1 < len(known):  # the next one would be too wide, or nearly so
        assert spread(known[place + 1]) * deviations > 0.98 * 2 ** (bits - 1)
    assert found.clip == pytest.approx(math.sqrt(found.variance * survivors) / noise)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31))
def test_sums_of_clients_that_all_agree_stay_within_their_words(seed):
    """The worst case of the signal: all of a hundred clients at the clipping norm, in the same direction."""
    rng = np.random.default_rng(seed)
    found = release(dimension=256, noise_multiplier=0.5)
    direction = rng.normal(size=256) * (rng.random(256) < rng.random())
    direction *= found.clip / max(np.linalg.norm(direction), 1e-9)
    turned = rotated(direction, signs_of(rng, 256))
    words = secure_words()
    total = sum(
        rounded(turned, found.reach, words) + drawn_share(found.mechanism, found.variance, words, 256)
        for _ in range(100)
    )
    assert np.abs(total).max() < 2**19


@pytest.mark.parametrize(
    "changes",
    [{"survivors": 0}, {"colluding": 80}, {"survivors": 101}, {"mechanism": "laplace"}, {"dimension": 0}],
)
def test_rounds_in_which_nobodys_noise_counts_are_none(changes):
    with pytest.raises(ConfigError):
        release(**changes)


@pytest.mark.parametrize("changes", [{"bits": 6}, {"cohort": 10**6, "bits": 16}, {"noise_multiplier": 1e-8}])
def test_words_that_do_not_hold_the_sum_are_refused(changes):
    with pytest.raises(IncompatibleError, match="too small for sums"):
        release(**changes)


def test_a_release_comes_back_from_the_ledger_and_what_was_released_counts():
    made = release(mechanism="skellam", colluding=3)
    assert release_of(made.fields(), "here") == made
    other = release_of({**made.fields(), "variance": made.variance - 1}, "here")
    assert (other.variance, other.reach) == (made.variance - 1, made.reach)
    plain = Release("all", 2.0)
    assert release_of(plain.fields(), "here") == plain


@pytest.mark.parametrize(
    "changes",
    [{"reach": 0}, {"reach": 2.5}, {"survivors": 200}, {"mechanism": "none"}, {"extra": 1}, {"bits": True}],
)
def test_fields_that_describe_no_release_are_refused(changes):
    with pytest.raises(IntegrityError):
        release_of({**release().fields(), **changes}, "here")

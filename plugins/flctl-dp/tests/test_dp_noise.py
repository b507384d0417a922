"""The lattice's noise: exact probabilities, the exact sampler of Canonne, Kamath and Steinke, whose words it takes."""

import os
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats

from exact_sampler import discrete_gaussian
from flctl_dp.noise.alias_table import AliasTable, discrete_gaussian_table
from flctl_dp.noise.entropy import Words, insecure_words, secure_words
from flctl_dp.noise.lattice import CELLS, Lattice, wide_discrete_gaussian

FULL = 1 << 128


def probabilities(table):
    """Value -> the probability that the table gives it, as an exact fraction."""
    found = Counter()
    for column, (other, own) in enumerate(table.values.T.tolist()):
        threshold = (int(table.high[column]) << 64) + table.low[column]
        found[own] += threshold
        found[other] += FULL - threshold
    return {value: Fraction(mass, FULL << table.bits) for value, mass in found.items() if mass}


@pytest.mark.parametrize(("s", "bits"), [(1, 5), (3, 7), (100, 12), (1024, 15)])
def test_each_probability_is_right_to_128_bits(s, bits):
    given = probabilities(discrete_gaussian_table(s, bits))
    assert sum(given.values()) == 1
    mpmath.mp.prec = 300
    total = mpmath.nsum(lambda x: mpmath.exp(-x * x / mpmath.mpf(2 * s * s)), [-20 * s, 20 * s], method="d")
    for x in [*range(min(s, 30) * 4), 7 * s, 9 * s, 12 * s]:
        right = mpmath.exp(-mpmath.mpf(x * x) / (2 * s * s)) / total
        for value in (x, -x):
            share = given.get(value, Fraction(0))
            assert abs(mpmath.mpf(share.numerator) / share.denominator - right) <= mpmath.mpf(2) ** -128


def test_a_table_that_cannot_hold_the_tails_is_refused():
    with pytest.raises(ValueError, match="is too small for"):
        discrete_gaussian_table(1200, 15)


def test_draws_are_those_of_the_exact_sampler():
    """Two samples of 5,000 each, sigma 3: chi-square of equal bins, and each against the true masses."""
    words, count = insecure_words("test", 1), 5_000
    fast = Counter(discrete_gaussian_table(3, 7).draw(words, count).tolist())
    exact = Counter(discrete_gaussian(Fraction(9), words.below) for _ in range(count))
    rows = np.array([[fast[x], exact[x]] for x in range(-8, 9)])
    assert stats.chi2_contingency(rows).pvalue > 1e-3
    mass = np.exp(-(np.arange(-40, 41) ** 2) / 18.0)
    expected = count * (mass / mass.sum())[32:49]
    for drawn in rows.T:
        assert stats.chisquare(drawn, expected * drawn.sum() / expected.sum()).pvalue > 1e-3


def test_wide_noise_has_the_moments_and_tails_of_a_gaussian():
    drawn = wide_discrete_gaussian(insecure_words("test", 2), 1_000_000) / CELLS
    assert abs(drawn.mean()) < 5e-3
    assert abs(drawn.var() - 1) < 8e-3
    assert abs((drawn**4).mean() - 3) < 0.06
    for bound in (1.0, 2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(bound) * len(drawn)
        assert abs((np.abs(drawn) > bound).sum() - expected) < 5 * expected**0.5
    assert stats.kstest(drawn[:50_000], "norm").pvalue > 1e-3


def test_wide_noise_takes_every_residue_alike():
    """Where the coarse draw's step showed through, some residues modulo it would be rare."""
    drawn = wide_discrete_gaussian(insecure_words("test", 3), 400_000)
    assert stats.chisquare(np.bincount(drawn % 400, minlength=400)).pvalue > 1e-3


def test_wide_noise_is_a_discrete_gaussian_by_convolution():
    """The exact convolution of two tables with the same ratio S / K, against the discrete Gaussian."""
    s, k = 32, 12  # tau = 2.66: the ratio that noise.py takes is 2.56
    mpmath.mp.prec = 300
    mass = {x: mpmath.exp(-mpmath.mpf(x * x) / (2 * s * s)) for x in range(-40 * s, 40 * s + 1)}
    variance = s * s * (1 + k * k)
    ratios = []
    for x in (0, 1, 5, 6, 7, 100, 777):
        total = mpmath.fsum(mass[y] * mass[x - k * y] for y in range(-8 * s, 8 * s) if x - k * y in mass)
        ratios.append(total / mpmath.exp(-mpmath.mpf(x * x) / (2 * variance)))
    assert max(abs(ratio / ratios[0] - 1) for ratio in ratios) < mpmath.mpf(2) ** -120


def test_thresholds_are_compared_to_their_last_bit():
    """Where the upper 64 bits are equal, the lower ones are drawn and decide."""

    class Scripted:
        def __init__(self, low):
            self.low = low

        def draw(self, count, dtype=np.uint64):
            if np.dtype(dtype) == np.uint16:
                return np.zeros(count, np.uint16)
            return np.full(count, 7 if count == 3 else self.low, np.uint64)

    table = AliasTable(0, np.array([7], np.uint64), (5,), np.array([[-1], [1]]))
    assert table.draw(Scripted(4), 3).tolist() == [1, 1, 1]
    assert table.draw(Scripted(5), 3).tolist() == [-1, -1, -1]


def test_words_are_the_key_stream_of_aes_256():
    """NIST SP 800-38A, F.5.5 gives AES-256-CTR; a zero counter block is AES of zero, FIPS 197's zero-key answer."""
    assert Words(bytes(32)).draw(16, np.uint8).tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_words_go_on_where_they_stopped():
    parts, whole = Words(b"k" * 32), Words(b"k" * 32)
    assert [*parts.draw(3, np.uint16), *parts.draw(5, np.uint16)] == whole.draw(8, np.uint16).tolist()
    assert parts.draw(0).size == 0


def test_secure_words_take_a_new_key_of_the_operating_system_each_time(monkeypatch):
    asked = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: asked.append(size) or real(size))
    np.random.seed(0)
    first = secure_words().draw(4).tolist()
    np.random.seed(0)
    assert first != secure_words().draw(4).tolist()
    assert asked == [32, 32]


def test_words_below_a_bound_are_uniform():
    words = insecure_words("test", 4)
    drawn = np.bincount([words.below(10) for _ in range(20_000)], minlength=10)
    assert len(drawn) == 10
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_a_vector_is_rounded_and_gets_noise_of_the_right_size():
    lattice = Lattice(0.5)
    given = np.linspace(-3, 3, 100_000).astype(np.float32)
    noise = lattice.noised(given, insecure_words("test", 5)) - given
    assert stats.kstest(noise / 0.5, "norm").pvalue > 1e-3


def test_long_vectors_get_noise_of_their_own_in_every_part():
    noise = Lattice(1.0).noised(np.zeros((1 << 20) + 5), insecure_words("test", 7))
    assert not np.array_equal(noise[:5], noise[-5:])
    assert np.unique(noise).size > 0.9 * noise.size / 4
    assert abs(noise.std() - 1) < 0.01


def test_what_leaves_is_a_point_of_the_lattice():
    lattice = Lattice(0.7)
    cells = lattice.noised(np.random.default_rng(1).normal(size=1000), secure_words()) / lattice.cell
    assert np.abs(cells - np.rint(cells)).max() < 1e-6


def test_rounding_moves_vectors_apart_by_no_more_than_stretch():
    lattice, rng = Lattice(1e5 * CELLS), np.random.default_rng(2)  # cells of 1e5
    for _ in range(20):
        one, other = rng.normal(scale=1e5, size=(2, 64))
        rounded = [np.rint(v / lattice.cell) * lattice.cell for v in (one, other)]
        apart = np.linalg.norm(rounded[0] - rounded[1]) - np.linalg.norm(one - other)
        assert apart <= lattice.stretch(64)


def test_values_are_rounded_to_the_nearest_point():
    """Equal words give equal noise: the difference is the rounded vector, half a cell away at most."""
    lattice, vector = Lattice(3.0), np.random.default_rng(4).normal(size=1000)
    found, noise = (lattice.noised(one, insecure_words(1)) for one in (vector, np.zeros(1000)))
    assert np.abs(found - noise - vector).max() <= lattice.cell * 0.5001


def test_values_beyond_the_lattice_are_cut():
    noised = Lattice(1.0).noised(np.array([1e300, -1e300, 0.0]), insecure_words("test", 6))
    assert np.isfinite(noised).all()
    assert noised[0] == -noised[1] or abs(noised[0] + noised[1]) < 100

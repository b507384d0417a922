"""Shamir's sharing, the graph, and the table of parameters."""

from fractions import Fraction
from math import comb

import pytest
from flctl_secagg.crypto import shamir
from flctl_secagg.protocol.degrees import Degrees, choose, complete
from flctl_secagg.protocol.graph import neighbours_of, ring
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl import IncompatibleError


def test_the_field_is_the_smallest_prime_above_256_bits():
    """Miller and Rabin with the first twelve primes as bases; no number between is prime."""

    def is_prime(n):
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            power = pow(base, odd, n)
            if power not in (1, n - 1) and all(pow(power, 2**i, n) != n - 1 for i in range(1, twos)):
                return False
        return True

    assert is_prime(shamir.PRIME)
    assert not any(is_prime(2**256 + offset) for offset in range(1, 297, 2))


def test_a_line_through_two_shares_by_hand(monkeypatch):
    """5 + 7 x: shares 12, 19, 26; any two give 5 back."""
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda bound: 7)
    secret = (5).to_bytes(32, "big")
    shares = shamir.split(secret, 2, 3)
    assert shares == [12, 19, 26]
    for places in ((1, 2), (1, 3), (2, 3), (3, 1)):
        assert shamir.combine(places, [shares[place - 1] for place in places]) == secret


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 8), st.randoms())
def test_any_t_shares_give_the_secret_back(secret, threshold, more, random):
    shares = shamir.split(secret, threshold, threshold + more)
    places = random.sample(range(1, len(shares) + 1), threshold)
    assert shamir.combine(places, [shares[place - 1] for place in places]) == secret


def test_fewer_than_t_shares_fit_every_secret():
    """Two shares of three: for any secret there is a polynomial through them."""
    shares = shamir.split(bytes(range(32)), 3, 5)
    for secret in (0, 1, shamir.PRIME - 1, 12345):
        third = shamir.evaluate((0, 1, 2), [secret, shares[0], shares[1]], 3)
        assert shamir.evaluate((1, 2, 3), [shares[0], shares[1], third], 0) == secret


def test_a_share_is_an_element_of_the_field():
    assert shamir.read_share(shamir.PRIME.to_bytes(33, "big")) is None
    assert shamir.read_share((shamir.PRIME - 1).to_bytes(33, "big")) == shamir.PRIME - 1
    assert shamir.read_share(bytes(32)) is None
    assert shamir.combine((1,), [2**256 + 3]) is None  # a secret has 256 bits


@pytest.mark.parametrize("bad", [(bytes(31), 2, 3), (bytes(32), 0, 3), (bytes(32), 4, 3)])
def test_what_cannot_be_shared_is_refused(bad):
    with pytest.raises(ValueError, match="a secret of"):
        shamir.split(*bad)


TABLE = [  # mode, corrupt and dropped, n, k, t
    ("hbc", 0.1, 100, 22, 11),
    ("hbc", 0.1, 500, 42, 24),
    ("hbc", 0.1, 1000, 48, 27),
    ("hbc", 0.1, 10_000, 54, 31),
    ("active", 0.05, 100, 16, 11),
    ("active", 0.05, 500, 54, 40),
    ("active", 0.05, 1000, 90, 71),
    ("active", 0.05, 10_000, 644, 573),
]


@pytest.mark.parametrize(("mode", "share", "count", "neighbours", "threshold"), TABLE)
def test_parameters_are_those_of_the_table(mode, share, count, neighbours, threshold):
    assert choose(count, mode, share, share) == Degrees(neighbours, threshold)


@pytest.mark.parametrize("count", [3, 4, 10, 49])
def test_small_cohorts_use_the_complete_graph(count):
    assert choose(count, "hbc", 0.3, 0.3) == complete(count, "hbc") == Degrees(count - 1, (count - 1) // 2 + 1)
    assert choose(count, "active", 0.3, 0.3).threshold == 2 * (count - 1) // 3 + 1


@pytest.mark.parametrize(("mode", "share", "count", "neighbours", "threshold"), TABLE[:3] + TABLE[4:6])
def test_parameters_keep_their_promises_by_simulation_free_counting(mode, share, count, neighbours, threshold):
    """Hypergeometric tails by direct counting: t - 1 would be reached too often, t is not; and t is left alive."""
    adversaries = absent = int(share * count)

    def tail(marked, least):
        ways = sum(comb(marked, x) * comb(count - 1 - marked, neighbours - x) for x in range(least, neighbours + 1))
        return Fraction(ways, comb(count - 1, neighbours))

    def is_safe(t):  # in active mode all corrupt clients may be neighbours of one
        return tail(adversaries, t) <= Fraction(1, 2**41 * count) if mode == "hbc" else 2 * t - neighbours > adversaries

    assert is_safe(threshold)
    assert not is_safe(threshold - 1) or threshold == (neighbours // 2 if mode == "hbc" else 2 * neighbours // 3 + 1)
    assert tail(absent, neighbours - threshold + 1) <= Fraction(1, 2**20 * count)


def test_a_threshold_is_beyond_what_corrupt_clients_reach():
    """40 of 100 corrupt: with two lists, 40 answer both and 59 honest ones are split, so 2 t - 99 > 40 gives t = 70."""
    assert complete(100, "active", 0.4).threshold == 70
    assert complete(100, "hbc", 0.4).threshold == 50
    assert complete(10, "active", 0.1).threshold == 7


def test_what_no_graph_can_bear_is_refused():
    with pytest.raises(IncompatibleError, match="no graph of 100 clients is safe"):
        choose(100, "hbc", 0.999, 0.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(6, 80), st.integers(1, 12), st.binary(min_size=32, max_size=32))
def test_the_harary_graph_is_regular_and_symmetric(count, half, seed):
    degree = 2 * half
    near = [neighbours_of(place, count, degree, seed) for place in range(count)]
    for place, peers in enumerate(near):
        assert len(peers) == len(set(peers)) == min(degree, count - 1)
        assert place not in peers
        assert list(peers) == sorted(peers)
        assert all(place in near[peer] for peer in peers)


def test_neighbours_are_those_next_on_the_ring():
    order = ring(20, b"seed")
    assert sorted(order) == list(range(20))
    assert neighbours_of(order[3], 20, 4, b"seed") == tuple(sorted((order[1], order[2], order[4], order[5])))
    assert neighbours_of(order[0], 20, 2, b"seed") == tuple(sorted((order[19], order[1])))
    assert ring(20, b"another") != order

"""Randomness is addressed by name."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flctl import seeds

names = st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), max_size=4)


@given(st.integers(0, 3), names, names)
def test_streams_meet_only_under_the_same_names(seed, one, other):
    same = [type(name) for name in one] == [type(name) for name in other] and one == other
    assert (seeds.derive(seed, *one) == seeds.derive(seed, *other)) == same


def test_a_stream_is_the_same_whenever_it_is_asked_for():
    first = seeds.rng(7, "round", 3, "client", "c17", "local").random(5)
    seeds.rng(7, "round", 3, "client", "c18", "local").random(5)
    again = seeds.rng(7, "round", 3, "client", "c17", "local").random(5)
    np.testing.assert_array_equal(first, again)


def test_the_derivation_never_changes_between_versions():
    # Computed once with hashlib and json alone: sha256('["flctl-seed/1",7,"round",3]')[:16].
    assert seeds.derive(7, "round", 3) == 0x0A1CC47A59038E04EF60A3DDE1C8E650


def test_secure_randomness_takes_no_seed():
    assert seeds.secure_rng().getrandbits(128) != seeds.secure_rng().getrandbits(128)

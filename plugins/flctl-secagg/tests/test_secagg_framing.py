"""Wrong shares: corrected up to half of the spare ones, and named without framing those who pass them on."""

import numpy as np
import pytest
from flctl_secagg.client import client
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.error_correction import corrected
from flctl_secagg.server.recovery import Opened, recover
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_support import attempt_of, cohort_of

SECRET = bytes(range(32))


def opened_with(count, threshold, wrong):
    """The shares of one owner, of which the places in `wrong` are changed; sender 100 + place."""
    opened = Opened(threshold)
    for place, share in enumerate(shamir.split(SECRET, threshold, count), 1):
        opened.add(0, place, 100 + place, share + 1 if place in wrong else share)
    return opened


def test_fourteen_wrong_shares_of_59_are_corrected():
    """n = 59, t = 30: (59 - 30) // 2 = 14; one of four was too many before."""
    wrong = set(range(1, 15))
    opened = opened_with(59, 30, wrong)
    assert recover(opened, 0, "c00", lambda secret: secret == SECRET) == SECRET
    assert opened.wrong == {100 + place: {0} for place in wrong}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 12), st.data())
def test_shares_within_the_radius_are_corrected(threshold, more, data):
    count = threshold + more
    most = st.lists(st.integers(1, count), max_size=more // 2, unique=True)
    shares = shamir.split(SECRET, threshold, count)
    for place in data.draw(most):
        shares[place - 1] = data.draw(st.integers(0, shamir.PRIME - 1))
    found = corrected(range(1, count + 1), shares, threshold)
    assert shamir.value_at(found, 0) == int.from_bytes(SECRET, "big")


def test_a_dealer_of_wrong_shares_frames_nobody(monkeypatch):
    """c08 commits to b and deals a wrong share: both possibilities are named, and nobody is left out for it."""
    split = client.shamir.split
    dealer = []

    def dealt(secret, threshold, count):
        shares = split(secret, threshold, count)
        return [(shares[0] + 7) % shamir.PRIME, *shares[1:]] if dealer == ["c08"] else shares

    def named(self, *given):
        dealer[:] = [self.me]
        return original(self, *given)

    original = client.Client._split
    monkeypatch.setattr(client.shamir, "split", dealt)
    monkeypatch.setattr(client.Client, "_split", named)
    cohort, notes = cohort_of(9), []
    attempt = attempt_of(cohort, notes)
    decoded = attempt.session.encoding.decode(cohort.play(attempt).words, 9)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)
    assert notes == ["shares of client 'c08' are inconsistent: it dealt wrong shares, or 'c00' sent wrong shares"]


def test_a_sender_of_wrong_shares_of_two_owners_is_a_liar():
    opened = Opened(2, wrong={7: {1}, 8: {1, 2}})
    assert opened.liars == {8}
    assert opened.doubts == {1: [7]}


@pytest.mark.parametrize("places", [(1, 2, 3), (5, 2, 9)])
def test_places_may_come_in_any_order(places):
    line = [5, 7]
    assert corrected(places, [shamir.value_at(line, place) for place in places], 2) == line

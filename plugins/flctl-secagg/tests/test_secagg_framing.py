"""Wrong shares, false complaints and copied keys: who is at fault is named, and nobody else."""

import hashlib

import numpy as np
import pytest
from flctl_secagg.client import client
from flctl_secagg.crypto import primitives, shamir
from flctl_secagg.crypto.error_correction import corrected
from flctl_secagg.crypto.primitives import sign
from flctl_secagg.protocol import frames, parcels
from flctl_secagg.protocol.signed_texts import abort_text, keys_text, opened_text, possession_text
from flctl_secagg.server.recovery import Opened, recover
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_support import AttemptError, attempt_of, cohort_of

HEAD = 38
SECRET = bytes(range(32))


def opened_with(count, threshold, wrong, fits=None):
    """The shares of one owner, of which the places in `wrong` are changed; sender 100 + place."""
    opened = Opened(threshold, fits or (lambda owner, sender, share: True))
    for place, share in enumerate(shamir.split(SECRET, threshold, count), 1):
        opened.add(0, place, 100 + place, share + 1 if place in wrong else share)
    return opened


def test_fourteen_wrong_shares_of_59_that_were_dealt_so_are_corrected():
    """n = 59, t = 30: (59 - 30) // 2 = 14. All fit their commitments, so that the dealer is at fault."""
    opened = opened_with(59, 30, set(range(1, 15)))
    assert recover(opened, 0, "c00", lambda secret: secret == SECRET) == SECRET
    assert (opened.dealers, opened.liars) == ({0}, set())


def test_wrong_shares_that_do_not_fit_are_left_out_up_to_the_threshold():
    """29 of 59 are changed by their senders: the 30 that fit give the secret, twice as many as could be corrected."""
    wrong = set(range(1, 30))
    opened = opened_with(59, 30, wrong, lambda owner, sender, share: sender - 100 not in wrong)
    assert recover(opened, 0, "c00", lambda secret: secret == SECRET) == SECRET
    assert (opened.dealers, opened.liars) == (set(), {100 + place for place in wrong})


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


def dealing(monkeypatch, dealer, changed):
    """Clients of which one calls the library with something changed: `changed` maps its parcels' arguments."""
    original = client.sealed_shares

    def sealed(session, key, me, peer, shares):
        if session.parameters.cohort[me] == dealer:
            key, shares = changed(peer, key, shares)
        return original(session, key, me, peer, shares)

    monkeypatch.setattr(client, "sealed_shares", sealed)


def played(cohort, mode="hbc"):
    """Notes of an attempt, and the sum's error; None if it gave no sum."""
    notes = []
    attempt = attempt_of(cohort, notes, mode=mode)
    try:
        unmasked = cohort.play(attempt)
    except AttemptError as error:
        return notes, error
    decoded = attempt.session.encoding.decode(unmasked.words, len(unmasked.survivors))
    exact = sum(cohort.vectors[name]["delta"].astype(np.float64) for name in unmasked.survivors)
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)
    return notes, None


@pytest.mark.parametrize("mode", ["hbc", "active"])
def test_a_dealer_of_wrong_shares_that_fit_their_commitments_is_named_alone(mode, monkeypatch):
    """c08 commits to b and deals c00 another share than those of the others, under its signature."""
    dealing(
        monkeypatch, "c08", lambda peer, key, shares: (key, (shares[0] + 7, shares[1])) if not peer else (key, shares)
    )
    notes, error = played(cohort_of(9), mode)
    assert error is None
    assert notes == ["client 'c08' signed and dealt wrong shares"]


@pytest.mark.parametrize("mode", ["hbc", "active"])
@pytest.mark.parametrize("liars", [("c00",), ("c00", "c01"), ("c00", "c01", "c02")])
def test_a_receiver_that_opens_other_shares_than_it_was_dealt_is_named_alone(mode, liars):
    """Under its own signature; three of nine are more than could be corrected in active mode (t = 6)."""

    def tamper(kind, name, reply):
        if kind != frames.UNMASK or name not in liars:
            return reply
        said = b"".join(bytes((0, *reply[at + 1 : at + 32], 7)) for at in range(HEAD, len(reply) - 64, 33))
        heard = next(m for k, n, m in cohort.heard if (k, n) == (kind, name))
        text = opened_text(reply[6:HEAD], name, heard[HEAD:], said)
        return reply[:HEAD] + said + sign(cohort.keyring.secret_of(name), text)

    cohort = cohort_of(9, tamper=tamper)
    notes, error = played(cohort, mode)
    assert notes == [f"client '{n}' signed shares that it was not dealt; others were used" for n in liars]
    assert error is None or len(liars) == 3


def test_shares_that_somebody_else_opened_in_a_clients_name_are_no_proof_against_it():
    def tamper(kind, name, reply):
        at = HEAD + 5
        changed = reply[:at] + bytes((reply[at] ^ 1,)) + reply[at + 1 :]
        return changed if (kind, name) == (frames.UNMASK, "c00") else reply

    notes, error = played(cohort_of(9, tamper=tamper))
    assert error is None
    assert notes == ["client 'c00' did not sign the shares that came from it; others were used"]


@pytest.mark.parametrize("what", ["garbage", "share", "place"])
def test_a_dealer_of_shares_that_cannot_be_read_or_do_not_fit_is_named_alone(what, monkeypatch):
    """c08 seals what does not open, or other shares than it commits to, for c02 alone; its accuser stays."""
    original = parcels.sealed

    def sealed(key, plain, data):
        box = original(key, plain, data)
        if dealer != ["c08", 2]:
            return box
        changed = {"garbage": bytes(len(box)), "share": original(key, plain[:9] + b"\7" + plain[10:], data)}
        return changed.get(what) or original(key, b"\0\1" + plain[2:], data)

    def named(session, key, me, peer, shares):
        dealer[:] = [session.parameters.cohort[me], peer]
        return original_shares(session, key, me, peer, shares)

    dealer, original_shares = [], client.sealed_shares
    monkeypatch.setattr(parcels, "sealed", sealed)
    monkeypatch.setattr(client, "sealed_shares", named)
    cohort = cohort_of(9)
    notes, error = played(cohort)
    told = "client 'c02' complained about the shares of client 'c08': the dealer signed shares that are invalid"
    assert notes == [told]
    assert error.left == tuple(name for name in cohort.names if name != "c08")
    assert not error.opened


def complaint(cohort, name, accused, key):
    """A complaint of a client that lies, under its signature, in place of its vector."""
    heard = next(m for k, n, m in cohort.heard if (k, n) == (frames.DELIVER, name))
    body = accused.to_bytes(4, "big") + hashlib.sha256(heard[HEAD:]).digest() + key
    text = abort_text(heard[6:HEAD], name, body)
    return frames.frame(frames.ABORT, heard[6:HEAD], body, sign(cohort.keyring.secret_of(name), text))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("right", "client 'c02' complained about the shares of client 'c08', which are valid"),
        ("wrong", "client 'c02' complained about the shares of client 'c08', and withheld the key that would show it"),
        ("stranger", "client 'c02' complained about a client that sent it no shares"),
    ],
)
def test_a_receiver_that_complains_about_valid_shares_is_named_alone(key, told):
    cohort, kept = cohort_of(9), {}

    def meddle(kind, name, message):
        if (kind, name) == (frames.DELIVER, "c02"):
            kept["key"] = cohort.client(name)._recalled(cohort.memories[name])[0].keys[8]
        return message

    def tamper(kind, name, reply):
        if (kind, name) != (frames.DELIVER, "c02"):
            return reply
        return complaint(cohort, name, 99 if key == "stranger" else 8, kept["key"] if key == "right" else bytes(32))

    cohort.meddle, cohort.tamper = meddle, tamper
    notes, error = played(cohort)
    assert notes == [told]
    assert error.left == tuple(name for name in cohort.names if name != "c02")


def test_a_client_that_denies_the_keys_of_its_pairs_takes_one_other_along(monkeypatch):
    """c02 commits to other keys than its eight neighbours, and nobody can tell who of a pair is right: the first pair
    is left out before anything is delivered, and the session goes on without it."""
    original = client.key_tag
    monkeypatch.setattr(
        client, "key_tag", lambda session, key, me, peer: original(session, bytes(32) if me == 2 else key, me, peer)
    )
    cohort = cohort_of(9)
    notes, error = played(cohort)
    assert error is None
    assert notes == ["clients 'c00' and 'c02' are left out: one of them lies about the key of the pair"]


def test_a_server_that_damages_parcels_learns_no_key_from_complaints(monkeypatch):
    """It would open a box with each key, and t of a dealer's boxes give its secrets."""
    cohort = cohort_of(6)

    def meddle(kind, name, message):
        found = frames.read_records(memoryview(message)[HEAD:], parcels.DELIVERED_BYTES, 9, 9) if kind == 3 else {}
        found = {place: bytes(20) + one[20:] for place, one in found.items()}
        return message[:HEAD] + frames.records(found.items()) if found else message

    cohort.meddle = meddle
    notes, error = played(cohort)
    assert len(notes) == 6
    for _, _, reply in cohort.said:
        if reply[5] == frames.ABORT:
            assert reply[HEAD + 36 : HEAD + 68] == bytes(32)
    assert error.left == cohort.names


def test_a_copy_of_advertised_keys_is_refused_and_their_owner_stays():
    """c00 answers first, with the keys and commitment that it saw c05 send, under its own signature."""
    cohort = cohort_of(6)
    seen = {}

    def replies(phase):
        found = dict(original(phase))
        if next(iter(phase.messages.values()))[5] == frames.HELLO:
            theirs = found["c05"]
            text = keys_text(theirs[6:HEAD], "c00", theirs[HEAD:])
            seen["signed"] = sign(cohort.keyring.secret_of("c00"), text)
            found["c00"] = theirs[: HEAD + 96] + seen["signed"] + theirs[HEAD + 160 :]
        return iter(found.items())

    original = cohort.replies
    cohort.replies = replies
    notes = []
    survivors = cohort.play(attempt_of(cohort, notes)).survivors
    assert survivors == ("c01", "c02", "c03", "c04", "c05")
    assert notes == ["client 'c00' is left out: it advertised keys of another client"]


def test_possession_is_shown_by_the_owner_of_a_key_for_one_session_and_client():
    seed = primitives.new_key()
    public = primitives.public_of(primitives.private_of(seed))
    proof = sign(seed, possession_text(b"sid", "c05", bytes(96), b"head"))
    assert primitives.possesses(public, proof, possession_text(b"sid", "c05", bytes(96), b"head"))
    for sid, name, head in ((b"other", "c05", b"head"), (b"sid", "c00", b"head"), (b"sid", "c05", b"other")):
        assert not primitives.possesses(public, proof, possession_text(sid, name, bytes(96), head))
    assert not primitives.possesses((2**255 - 20).to_bytes(32, "little"), proof, b"")


@pytest.mark.parametrize("places", [(1, 2, 3), (5, 2, 9)])
def test_places_may_come_in_any_order(places):
    line = [5, 7]
    assert corrected(places, [shamir.value_at(line, place) for place in places], 2) == line

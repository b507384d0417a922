"""Properties that secrecy rests on, each by itself: fresh secrets, texts and ids bound to one session, bounds that
clients and the server keep on their own, and records that show every change."""

import contextlib
import dataclasses

import pytest
from flctl_secagg.client.client import Client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.error_correction import corrected
from flctl_secagg.crypto.primitives import KEY_BYTES, loaded, new_key, public_of, sealed, sign
from flctl_secagg.protocol import degrees, frames
from flctl_secagg.protocol.derived_keys import RECORD_BYTES, box_data, box_key
from flctl_secagg.protocol.parcels import DELIVERED_BYTES
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import (
    abort_text,
    agreed_text,
    keys_text,
    masked_text,
    opened_text,
    parcel_text,
    possession_text,
    shares_text,
)
from flctl_secagg.server.journal import Outcome, chained
from secagg_support import AttemptError, attempt_of, cohort_of, identities, parameters

from flctl import IntegrityError, ProtocolError

HEAD, VICTIM = 38, "c02"


@pytest.fixture
def sparse(monkeypatch):
    """Cohorts of any size may have a sparse graph."""
    monkeypatch.setattr(degrees, "COMPLETE_BELOW", 3)
    degrees.choose.cache_clear()
    yield
    degrees.choose.cache_clear()


def to_victim(kind, change):
    """A server that sends the victim another message in one phase."""
    return lambda at, name, message: change(message) if (at, name) == (kind, VICTIM) else message


def why_refused(cohort, **changes):
    """The victim's reason to refuse; None if it refuses nothing."""
    with contextlib.suppress(AttemptError):
        cohort.play(attempt_of(cohort, **changes))
    found = cohort.refusals.get(VICTIM)
    return None if found is None else found.message


# Secrets


@pytest.mark.parametrize("threshold", [2, 3, 8])
def test_a_sharing_polynomial_has_independent_coefficients_of_the_whole_field(threshold):
    """Each of t - 1 coefficients is below 2^200 with a probability of 2^-56."""
    secret = bytes(range(32))
    shares = shamir.split(secret, threshold, threshold)
    found = corrected(range(1, threshold + 1), shares, threshold)
    assert found[0] == int.from_bytes(secret, "big")
    assert len(found) == threshold
    assert len(set(found[1:])) == threshold - 1
    assert min(found[1:]) > 1 << 200


def test_sealed_boxes_have_nonces_of_their_own():
    key = new_key()
    assert len({sealed(key, b"the same", b"")[:12] for _ in range(20)}) == 20


def test_keys_and_commitments_of_a_client_are_new_in_each_session():
    cohort = cohort_of(5)
    for number in (1, 2):
        cohort.play(attempt_of(cohort, attempt=number))
    records = [reply[HEAD:] for kind, _, reply in cohort.said if kind == frames.HELLO]
    parts = {record[at : at + KEY_BYTES] for record in records for at in (0, KEY_BYTES, 2 * KEY_BYTES)}
    assert len(parts) == 2 * 5 * 3


def test_own_secrets_go_when_the_vector_is_sent_and_all_else_when_shares_are_open():
    cohort, kept = cohort_of(5), {}

    def meddle(kind, name, message):
        if name == VICTIM and kind != frames.HELLO:
            kept[kind] = cohort.client(name)._recalled(cohort.memories[name])[0]
        return message

    cohort.meddle = meddle
    cohort.play(attempt_of(cohort))
    assert set(kept[frames.KEYS].secrets) == {"b", "c", "s"}
    assert set(kept[frames.DELIVER].secrets) == {"b", "s"}
    after = kept[frames.UNMASK]
    assert (dict(after.secrets), dict(after.keys), dict(after.peers), len(after.shares)) == ({}, {}, {}, 4)
    assert set(cohort.memories.values()) == {b""}


# Binding


def test_a_box_of_shares_is_for_one_direction_of_one_pair_in_one_session():
    """One key seals both boxes of a pair; the data that each authenticates differ."""
    roster, _, names = identities(9)
    session, other = (Session(parameters(names), roster) for _ in range(2))
    one, two = new_key(), new_key()
    there = box_key(session, loaded(one), public_of(two), 3, 7)
    assert there == box_key(session, loaded(two), public_of(one), 3, 7)
    assert there == box_key(session, loaded(two), public_of(one), 7, 3)
    assert there != box_key(session, loaded(one), public_of(two), 3, 6)
    assert there != box_key(other, loaded(one), public_of(two), 3, 7)
    data = {box_data(*which) for which in ((session, 3, 7), (session, 7, 3), (session, 3, 6), (other, 3, 7))}
    assert len(data) == 4


def test_a_signed_text_is_of_one_client_and_one_purpose():
    sid, payload = new_key(), bytes(range(96))
    made = [keys_text, abort_text]
    texts = [text(sid, name, payload) for text in made for name in ("a", "b")]
    both = [shares_text, opened_text, possession_text]
    texts += [text(sid, name, *parts) for text in both for name in ("a", "b") for parts in orders(payload, b"heard")]
    texts += [masked_text(sid, name, b"shared", *parts) for name in ("a", "b") for parts in orders(payload, b"heard")]
    texts += [masked_text(sid, "a", b"other", payload, b"heard")]
    texts += [parcel_text(sid, *parts, payload) for parts in orders("a", "b")]
    texts += [agreed_text(sid, payload), agreed_text(sid, payload[::-1])]
    assert len(set(texts)) == len(texts) == 4 + 12 + 5 + 2 + 2


def orders(one, other):
    return (one, other), (other, one)


def replayed(mode="hbc"):
    """A cohort that finished one session, the replies of c04 in it, and the same cohort's next session."""
    cohort = cohort_of(6)
    cohort.play(attempt_of(cohort, mode=mode))
    return cohort, {kind: reply for kind, name, reply in cohort.said if name == "c04"}


def test_keys_that_were_signed_in_another_session_are_refused():
    cohort, said = replayed()

    def change(message):
        records = frames.read_records(memoryview(message)[HEAD + 4 :], RECORD_BYTES, 99, 99)
        return message[: HEAD + 4] + frames.records(
            {**records, 4: said[frames.HELLO][HEAD : HEAD + RECORD_BYTES]}.items()
        )

    cohort.meddle = to_victim(frames.KEYS, change)
    assert why_refused(cohort, attempt=2) == "the keys of client 'c04' are not signed by it"


def test_a_vector_that_was_signed_in_another_session_is_left_out():
    cohort, said = replayed()
    at = (frames.DELIVER, "c04")
    cohort.tamper = lambda kind, name, reply: reply[:HEAD] + said[kind][HEAD:] if (kind, name) == at else reply
    notes = []
    cohort.policy = dataclasses.replace(cohort.policy, differing="allow")
    with pytest.raises(AttemptError):  # the others opened shares for the six before
        cohort.play(attempt_of(cohort, notes, attempt=2))
    assert notes[0] == "client 'c04' is left out: it did not sign its masked vector"


def test_a_list_of_survivors_that_was_signed_in_another_session_opens_nothing():
    cohort, said = replayed("active")

    def change(message):
        signed = frames.read_records(memoryview(message)[HEAD + 1 :], 64, 99, 99)
        return message[: HEAD + 1] + frames.records({**signed, 4: said[frames.SURVIVORS][HEAD:]}.items())

    cohort.meddle = to_victim(frames.UNMASK, change)
    assert why_refused(cohort, mode="active", attempt=2) == "client 'c04' did not sign the list of survivors"


def test_in_active_mode_the_graph_follows_from_the_operator_s_seed_and_the_round():
    """A server that chose it, by its nonce, would try until a client has the neighbours that it wants."""
    roster, _, names = identities(40)

    def graph(operators=roster, number=1):
        chosen = {"mode": "active", "neighbours": 6, "threshold": 5, "round": number}
        session = Session(parameters(names, **chosen), operators)  # a new nonce each time
        return [session.neighbours(place) for place in range(40)]

    assert graph() == graph()
    assert graph() != graph(number=2)
    assert graph() != graph(dataclasses.replace(roster, graph_seed=new_key()))


def test_the_roster_s_digest_and_signature_depend_on_each_of_its_parts():
    roster, _, _ = identities(3)
    other = {**roster.keys, "c01": public_of(new_key())}
    changed = [
        dataclasses.replace(roster, **change)
        for change in ({"run": "b"}, {"graph_seed": new_key()}, {"operator": new_key()}, {"keys": other})
    ]
    assert len({roster.digest, *(one.digest for one in changed)}) == 5
    for one in changed:
        with pytest.raises(IntegrityError, match="signature is invalid"):
            one.check()


def test_lists_of_clients_are_ascending_and_name_each_once():
    body = b"".join(place.to_bytes(4, "big") + b"x" for place in (1, 3))
    assert frames.read_records(memoryview(body), 1, 9, 9) == {1: b"x", 3: b"x"}
    for places in ((3, 1), (1, 1), (1, 9)):
        body = b"".join(place.to_bytes(4, "big") + b"x" for place in places)
        with pytest.raises(ProtocolError, match="has a duplicate, is out of order, or names a client outside"):
            frames.read_records(memoryview(body), 1, 9, 9)


# Limits that a client keeps


def without(message, size, count):
    """A list of records without the last `count`."""
    return message[: len(message) - count * (size + 4)]


def test_a_client_deals_no_shares_to_fewer_than_the_threshold():
    cohort = cohort_of(6, meddle=to_victim(frames.KEYS, lambda message: without(message, RECORD_BYTES, 3)))
    assert why_refused(cohort) == "found 2 neighbours, fewer than the threshold"


def test_a_client_masks_no_vector_with_fewer_than_the_threshold():
    cohort = cohort_of(6, meddle=to_victim(frames.DELIVER, lambda message: without(message, DELIVERED_BYTES, 3)))
    assert "2 neighbours with shares, fewer than the threshold" in why_refused(cohort)


def test_a_client_shares_its_secrets_with_no_neighbour_that_the_graph_does_not_give_it(sparse):
    cohort = cohort_of(10)
    attempt = attempt_of(cohort, neighbours=4, threshold=3)
    near = attempt.session.neighbours(2)
    stranger = next(place for place in range(10) if place not in (2, *near))

    def change(message):
        records = frames.read_records(memoryview(message)[HEAD + 4 :], RECORD_BYTES, 99, 99)
        records.pop(near[0])
        return message[: HEAD + 4] + frames.records({**records, stranger: attempt.records[stranger]}.items())

    cohort.meddle = to_victim(frames.KEYS, change)
    with contextlib.suppress(AttemptError):
        cohort.play(attempt)
    assert cohort.refusals[VICTIM].message == "there are keys of clients that are not neighbours"


@pytest.mark.parametrize("changes", [{"survivors": 5}, {"threshold": 5}])
def test_survivors_below_the_session_s_minimum_or_its_threshold_open_nothing(changes):
    """Four of six: c00 to c03."""
    cohort = cohort_of(6, meddle=to_victim(frames.UNMASK, lambda message: message[:HEAD] + b"\x0f"))
    assert why_refused(cohort, **changes) == "found 4 survivors, fewer than the session needs"


def test_signatures_of_neighbours_on_the_list_count_and_no_others():
    roster, keyring, names = identities(8)
    session = Session(parameters(names, mode="active", neighbours=4, threshold=3), roster)
    me = Client(names[0], keyring, roster, Policy(), Ledger())
    near = session.neighbours(0)
    far = [place for place in range(1, 8) if place not in near]

    def agreed(signers, alive):
        survivors = frames.bitmap(alive, 8)
        text = agreed_text(session.sid, survivors)
        body = frames.records((place, sign(keyring.secret_of(names[place]), text)) for place in signers)
        me._check_agreement(session, survivors, memoryview(body))

    agreed(near[:3], range(8))
    for signers, alive in ((far[:3], range(8)), (near[:3], [place for place in range(8) if place != near[0]])):
        with pytest.raises(ProtocolError, match="found 3 signatures of neighbours, expected at least 3"):
            agreed(signers, alive)


def test_the_policy_s_fraction_of_corrupt_clients_raises_the_threshold():
    """40 of 100 answer two lists: t is 70, and 67 without them."""
    roster, _, names = identities(100)
    asked = parameters(names, run=roster.run, mode="active", threshold=67)
    policy = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0)
    policy.check(asked, "c00", roster)
    with pytest.raises(ProtocolError, match="the threshold is 67, expected 70 to 99"):
        dataclasses.replace(policy, corrupt=0.4).check(asked, "c00", roster)


@pytest.mark.parametrize(("synced", "mode"), [(True, 2), (False, 1)])
def test_a_client_s_record_survives_a_power_loss_if_it_is_synced(synced, mode, tmp_path):
    """SQLite flushes the log to disk at each commit in mode 2, FULL."""
    with Ledger(tmp_path / "ledger.sqlite", synced)._locked() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (mode,)


# What the server checks


def test_keys_without_its_signature_cost_their_client_and_nobody_else():
    cohort, notes = cohort_of(6), []
    at = (frames.HELLO, "c03")
    last = HEAD + RECORD_BYTES - 1

    def tamper(kind, name, reply):
        changed = reply[:last] + bytes((reply[last] ^ 1,)) + reply[last + 1 :]
        return changed if (kind, name) == at else reply

    cohort.tamper = tamper
    assert "c03" not in cohort.play(attempt_of(cohort, notes)).survivors
    assert notes == ["client 'c03' is left out: it did not sign its keys"]
    assert cohort.refusals == {}


def test_a_reply_of_another_kind_is_left_out():
    cohort, notes = cohort_of(6), []
    at = (frames.HELLO, "c03")
    cohort.tamper = lambda kind, name, reply: reply[:5] + b"\x13" + reply[6:] if (kind, name) == at else reply
    assert "c03" not in cohort.play(attempt_of(cohort, notes)).survivors
    assert notes == ["client 'c03' is left out: a message of kind 19 arrived, expected 17"]


def test_a_client_that_is_accused_by_no_neighbour_of_its_own_stays(sparse):
    cohort = cohort_of(10)
    attempt = attempt_of(cohort, neighbours=4, threshold=3)
    stranger = next(place for place in range(10) if place not in (3, *attempt.session.neighbours(3)))
    sid, body = attempt.session.sid, stranger.to_bytes(4, "big") + bytes(64)
    signature = sign(cohort.keyring.secret_of("c03"), abort_text(sid, "c03", body))
    accusation = frames.frame(frames.ABORT, sid, body, signature)
    at = (frames.DELIVER, "c03")
    cohort.tamper = lambda kind, name, reply: accusation if (kind, name) == at else reply
    with pytest.raises(AttemptError, match="a client complained about a share") as caught:
        cohort.play(attempt)
    assert set(caught.value.left) == set(cohort.names) - {"c03"}


@pytest.mark.parametrize(("kind", "did"), [(frames.HELLO, "advertised keys"), (frames.KEYS, "shared their secrets")])
def test_a_session_goes_on_with_the_minimum_of_its_session_or_more(kind, did):
    cohort = cohort_of(6, lost=lambda at, name: at == kind and name in ("c04", "c05"))
    with pytest.raises(AttemptError, match=f"4 of 6 clients {did}, 5 are needed"):
        cohort.play(attempt_of(cohort, minimum=5))


# Records


def test_the_journal_s_head_depends_on_every_outcome_before():
    end = Outcome(3, "end", "ended")

    def head(*outcomes):
        return [one for one, _ in chained([*outcomes, end])][-1]

    one, two = Outcome(1, "aa", "summed", ("a",)), Outcome(2, "bb", "burnt")
    heads = {
        head(),
        head(one),
        head(two),
        head(one, two),
        head(two, one),
        head(dataclasses.replace(one, sid="cc"), two),
    }
    assert len(heads) == 6

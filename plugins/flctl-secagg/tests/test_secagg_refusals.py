"""What clients and server must refuse: an adversary on either side, who speaks to the real code in bytes."""

import contextlib
import dataclasses
import json
import logging
import sys

import numpy as np
import pytest
from flctl_secagg.client import client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.memory import Memory
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto import primitives
from flctl_secagg.crypto.primitives import bound, sign
from flctl_secagg.identity.keys import identity_public
from flctl_secagg.identity.roster import Roster, make_roster
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.derived_keys import BOX_BYTES, RECORD_BYTES
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.parcels import DELIVERED_BYTES
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import keys_text
from flctl_secagg.server import recovery
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_support import ASKED, AttemptError, attempt_of, cohort_of, identities, parameters, signed_vector
from support import prefork

from flctl import FlctlError, IntegrityError, ProtocolError

VICTIM = "c02"
HEAD = 38


def meddling(kind, change, name=VICTIM):
    """A server that changes what it tells the victim in one phase."""
    return lambda at, who, message: change(message) if (at, who) == (kind, name) else message


def refusal(count=6, mode="active", policy=None, **hooks):
    """Why the victim refuses, in a session whose server or peers misbehave; None where it does not."""
    cohort = cohort_of(count, **hooks, **({"policy": policy} if policy else {}))
    with contextlib.suppress(AttemptError):
        cohort.play(attempt_of(cohort, mode=mode))
    found = cohort.refusals.get(VICTIM)
    return None if found is None else found.message


class Rewound:
    """A client whose memory an adversary kept from before each phase, to play it again."""

    def __init__(self, mode, tmp_path=None):
        self.cohort = cohort_of(6, ledger=Ledger(None if tmp_path is None else tmp_path / "ledger.sqlite"))
        self.before, self.messages = {}, {}
        self.cohort.meddle = self._kept
        self.attempt = attempt_of(self.cohort, mode=mode)
        self.cohort.play(self.attempt)

    def _kept(self, kind, name, message):
        if name == VICTIM:
            self.before[kind], self.messages[kind] = self.cohort.memories.get(name, b""), message
        return message

    def again(self, kind, message=None, memory=None):
        """The victim's answer to a message of a phase that it took before."""
        memory = self.before[kind] if memory is None else memory
        vector = self.cohort.vectors[VICTIM] if kind == frames.DELIVER else None
        victim = self.cohort.client(VICTIM)
        return victim.step(memory, message or self.messages[kind], vector, self.cohort.request(VICTIM))


def other_survivors(message):
    """The same message with c00 declared dead."""
    return message[:HEAD] + bytes((message[HEAD] & ~1,)) + message[HEAD + 1 :]


@pytest.mark.parametrize("mode", ["hbc", "active"])
def test_01_one_kind_of_share_is_opened_of_each_peer(mode):
    cohort = cohort_of(6, lost=lambda kind, name: kind == frames.DELIVER and name == "c05")
    attempt = attempt_of(cohort, mode=mode)
    cohort.play(attempt)
    answers = [reply for kind, _, reply in cohort.said if kind == frames.UNMASK]
    assert {len(reply) - HEAD - 64 for reply in answers} == {5 * 33}  # one share for each of five peers, b or s


@pytest.mark.parametrize("mode", ["hbc", "active"])
def test_01_nor_in_two_messages_or_after_a_restart(mode, tmp_path):
    played = Rewound(mode, tmp_path)
    asked = other_survivors(played.messages[frames.UNMASK])
    for memory in (b"", None):  # what is left, and what an adversary put back
        with pytest.raises(ProtocolError, match=r"has no such session|was already taken|differ from the list that"):
            played.again(frames.UNMASK, asked, memory)


def test_01_a_new_process_knows_what_the_old_one_answered(tmp_path):
    """The record is on disk when the answer leaves: a process that starts later refuses."""
    played = Rewound("hbc", tmp_path)
    sid = played.attempt.session.sid.hex()
    program = (
        "import sys; from pathlib import Path; from flctl import ProtocolError\n"
        "from flctl_secagg.client.ledger import Ledger\n"
        f"try: Ledger(Path(sys.argv[1])).claim({VICTIM!r}, bytes.fromhex({sid!r}), {frames.UNMASK})\n"
        "except ProtocolError as error: print(error.message)"
    )
    path = str(tmp_path / "ledger.sqlite")
    done = prefork.run([sys.executable, "-c", program, path], check=True)
    assert done.stdout.strip() == "this step of the session was already taken"
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o077 == 0


def test_02_a_second_list_of_survivors_is_not_signed():
    played = Rewound("active")
    with pytest.raises(ProtocolError, match="shares were opened for other survivors before"):
        played.again(frames.SURVIVORS, other_survivors(played.messages[frames.SURVIVORS]))


def test_02_shares_are_opened_for_the_list_that_was_signed_and_no_other():
    found = refusal(meddle=meddling(frames.UNMASK, other_survivors))
    assert found == "the survivors differ from the list that this client signed"


def test_02_two_lists_for_two_halves_open_nothing():
    """A server that tells c00..c02 that c05 died, and c03..c05 that it did not, gets no share from anybody."""

    def meddle(kind, name, message):
        if kind != frames.SURVIVORS or name > "c02":
            return message
        return message[:HEAD] + bytes((message[HEAD] & ~(1 << 5),))

    cohort = cohort_of(6, meddle=meddle)
    with pytest.raises(AttemptError, match="signed the list of survivors, 4 are needed"):
        cohort.play(attempt_of(cohort, mode="active"))
    assert not [name for kind, name, _ in cohort.said if kind == frames.UNMASK]


def test_02_too_few_or_false_signatures_open_nothing():
    def fewer(message):
        return message[: HEAD + 1 + 3 * 68]

    def false(message):
        return message[:-1] + bytes((message[-1] ^ 1,))

    def outsider(message):
        return message[: HEAD + 1] + b"\x00\x00\x00\x02" + message[HEAD + 1 + 4 :]  # the victim itself

    assert "found 3 signatures of neighbours, expected at least 4" in refusal(meddle=meddling(frames.UNMASK, fewer))
    assert "did not sign the list" in refusal(meddle=meddling(frames.UNMASK, false))
    assert refusal(meddle=meddling(frames.UNMASK, outsider)) is not None


def test_02_a_round_has_one_list_of_survivors_whatever_the_attempt():
    """A server that calls a finished session failed, and starts another without c05, gets no second sum."""
    cohort = cohort_of(6)
    cohort.play(attempt_of(cohort))
    cohort.lost = lambda kind, name: kind == frames.HELLO and name == "c05"
    with pytest.raises(AttemptError, match="0 opened shares"):
        cohort.play(attempt_of(cohort, attempt=2))
    assert {error.message for error in cohort.refusals.values()} == {
        "in round 1, shares were opened for other survivors before"
    }


def test_02_a_round_may_be_repeated_with_the_same_survivors():
    """A server that lost its sum in a crash: the same clients give the same sum again."""
    cohort = cohort_of(6)
    first, second = (cohort.play(attempt_of(cohort, attempt=number)) for number in (1, 2))
    assert first.survivors == second.survivors == cohort.names
    assert cohort.refusals == {}


@pytest.mark.parametrize("mode", ["hbc", "active"])
@pytest.mark.parametrize("kind", [frames.HELLO, frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK])
def test_03_no_step_of_a_session_is_taken_twice(mode, kind):
    played = Rewound(mode)
    if kind in played.messages:
        with pytest.raises(ProtocolError, match="was already taken"):
            played.again(kind)


@pytest.mark.parametrize("kind", [frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK])
def test_04_messages_of_another_round_are_refused(kind):
    other = Rewound("active")
    assert refusal(meddle=meddling(kind, lambda _: other.messages[kind])) == "a message belongs to another session"


def test_04_messages_out_of_turn_are_refused():
    other = Rewound("active")

    def moved(message):  # the session is right, the phase is not
        body = other.messages[frames.SURVIVORS][HEAD:]
        return frames.frame(frames.SURVIVORS, message[6:HEAD], body)

    assert refusal(meddle=meddling(frames.KEYS, moved)) == "a message arrived out of order"


def test_05_a_session_is_not_used_twice(tmp_path):
    played = Rewound("hbc", tmp_path)
    with pytest.raises(ProtocolError, match="was already taken"):
        played.again(frames.HELLO, memory=b"")


def test_05_each_session_has_new_keys():
    records = set()
    for number in (1, 2, 3):
        cohort = cohort_of(4)
        cohort.play(attempt_of(cohort, attempt=number))
        records |= {reply[at : at + 32] for k, _, reply in cohort.said if k == frames.HELLO for at in (HEAD, HEAD + 32)}
    assert len(records) == 3 * 4 * 2


def with_record(message, place, change):
    """A KEYS message in which one record is another."""
    records = frames.read_records(memoryview(message)[HEAD + 4 :], RECORD_BYTES, 99, 99)
    records[place] = change(records[place])
    return message[: HEAD + 4] + frames.records(records.items())


@pytest.mark.parametrize("at", [0, 40, 70, 120])
def test_06_a_swapped_key_commitment_or_signature_is_refused(at):
    def swap(record):
        return record[:at] + bytes((record[at] ^ 1,)) + record[at + 1 :]

    found = refusal(meddle=meddling(frames.KEYS, lambda message: with_record(message, 4, swap)))
    assert found == "the keys of client 'c04' are not signed by it"
    found = refusal(meddle=meddling(frames.KEYS, lambda message: with_record(message, 2, swap)))
    assert found == "this client's keys differ from the keys that it sent"


def test_06_keys_that_the_server_signs_itself_are_refused():
    def own(record):
        fresh = primitives.public_of(primitives.new_key()) * 2 + record[64:96]
        return fresh + sign(primitives.new_key(), bound(b"keys", b"", b"c04", fresh))

    found = refusal(meddle=meddling(frames.KEYS, lambda message: with_record(message, 4, own)))
    assert found == "the keys of client 'c04' are not signed by it"


def test_07_a_record_twice_or_for_another_client_is_refused():
    def twice(message):
        return message + message[-(RECORD_BYTES + 4) :]

    def renamed(message):
        records = frames.read_records(memoryview(message)[HEAD + 4 :], RECORD_BYTES, 99, 99)
        records[3] = records[4]
        return message[: HEAD + 4] + frames.records(records.items())

    assert refusal(meddle=meddling(frames.KEYS, twice)) is not None
    assert refusal(meddle=meddling(frames.KEYS, renamed)) == "the keys of client 'c03' are not signed by it"


def test_07_equal_keys_of_two_clients_are_refused():
    """Two members of the roster that collude to have the same keys: the server leaves the second one out, and a
    client that is told both refuses."""
    cohort, notes = cohort_of(6), []
    first = {}

    def tamper(kind, name, reply):
        if kind != frames.HELLO or name not in ("c03", "c04"):
            return reply
        keys = first.setdefault("keys", reply[HEAD : HEAD + 64]) + reply[HEAD + 64 : HEAD + 96]
        text = keys_text(reply[6:HEAD], name, keys)
        return reply[:HEAD] + keys + sign(cohort.keyring.secret_of(name), text) + reply[HEAD + 160 :]

    cohort.tamper = tamper
    assert "c04" not in cohort.play(attempt_of(cohort, notes)).survivors
    assert notes == ["client 'c04' is left out: it advertised keys of another client"]
    victim, session = cohort.client(VICTIM), attempt_of(cohort).session
    _, mine = victim.step(b"", frames.frame(frames.HELLO, session.sid, session.parameters.canonical()), None, ASKED)
    kept = Memory(0, b"", records={2: mine[HEAD : HEAD + 160]})
    double = mine[HEAD : HEAD + 32] * 2 + mine[HEAD + 64 : HEAD + 96]
    for place in (0, 1, 3, 4):
        name = cohort.names[place]
        record = double + sign(cohort.keyring.secret_of(name), keys_text(session.sid, name, double))
        kept = dataclasses.replace(kept, records={**kept.records, place: record})
    with pytest.raises(ProtocolError, match="two keys of the session are equal"):
        victim._check_records(kept, session, kept.records, session.neighbours(2))


def test_07_a_client_is_not_its_own_neighbour():
    def own(message):
        boxes = frames.read_records(memoryview(message)[HEAD:], DELIVERED_BYTES, 99, 99)
        boxes[2] = boxes.pop(3)
        return message[:HEAD] + frames.records(boxes.items())

    assert "or unknown" in refusal(meddle=meddling(frames.DELIVER, own))


@pytest.mark.parametrize("low", [bytes(32), (1).to_bytes(32, "little")])
def test_08_a_key_of_low_order_costs_its_sender_and_nobody_else(low):
    cohort, notes = cohort_of(6), []

    def tamper(kind, name, reply):
        if (kind, name) != (frames.HELLO, "c03"):
            return reply
        record = reply[HEAD : HEAD + 32] + low + reply[HEAD + 64 : HEAD + 96]
        text = keys_text(reply[6:HEAD], name, record)
        return reply[:HEAD] + record + sign(cohort.keyring.secret_of(name), text) + reply[HEAD + 160 :]

    cohort.tamper = tamper
    assert set(cohort.play(attempt_of(cohort, notes)).survivors) == set(cohort.names) - {"c03"}
    assert cohort.refusals == {}
    assert notes == ["client 'c03' is left out: its keys are of low order, or the same"]


@pytest.mark.parametrize("kind", [frames.HELLO, frames.KEYS, frames.DELIVER, frames.SURVIVORS])
@pytest.mark.parametrize("change", [lambda r: r[:-1], lambda r: r + b"\0", lambda r: b"", lambda r: r[:HEAD]])
def test_08_a_reply_of_another_length_costs_its_sender_and_nobody_else(kind, change):
    cohort, notes = cohort_of(7), []
    cohort.tamper = lambda at, name, reply: change(reply) if (at, name) == (kind, "c03") else reply
    attempt = attempt_of(cohort, notes, mode="active")
    unmasked = cohort.play(attempt)
    assert ("c03" in unmasked.survivors) == (kind == frames.SURVIVORS)
    decoded = attempt.session.encoding.decode(unmasked.words, len(unmasked.survivors))
    exact = sum(cohort.vectors[name]["delta"].astype(np.float64) for name in unmasked.survivors)
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)
    assert [note for note in notes if note.startswith("client 'c03' is left out: ")]


def damaged(kind):
    """Ways to damage the box from c04 in what the victim is delivered."""

    def change(message):
        boxes = frames.read_records(memoryview(message)[HEAD:], DELIVERED_BYTES, 99, 99)
        box, tag = boxes[4], BOX_BYTES - 1
        changed = {"body": 20, "nonce": 0, "tag": tag, "commitment": BOX_BYTES}
        boxes[4] = boxes[5] if kind == "other" else _flipped(box, changed[kind])
        return message[:HEAD] + frames.records(boxes.items())

    return change


def _flipped(data, at):
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@pytest.mark.parametrize("kind", ["body", "nonce", "tag", "other", "commitment"])
def test_09_a_share_damaged_on_its_way_aborts_the_attempt_and_blames_neither_of_its_clients(kind):
    cohort, notes = cohort_of(6, meddle=meddling(frames.DELIVER, damaged(kind))), []
    with pytest.raises(AttemptError, match="complained about a share") as caught:
        cohort.play(attempt_of(cohort, notes))
    assert notes == [f"client '{VICTIM}' complained about the shares of client 'c04': they were changed on their way"]
    assert caught.value.left == cohort.names
    aborts = [reply for at, name, reply in cohort.said if at == frames.DELIVER and name == VICTIM]
    assert [reply[5] for reply in aborts] == [frames.ABORT]
    assert {reply[HEAD + 36 : HEAD + 68] for reply in aborts} == {bytes(32)}  # no key, as c04 did not sign what came


def test_09_a_share_at_another_place_of_the_polynomial_aborts_too(monkeypatch):
    """c04 deals its shares in another order."""
    split = client.Client._split

    def turned(self, kept, session, neighbours):
        shares = split(self, kept, session, neighbours)
        return shares[1:] + shares[:1] if self.me == "c04" else shares

    monkeypatch.setattr(client.Client, "_split", turned)
    cohort, notes = cohort_of(6), []
    with pytest.raises(AttemptError, match="do not match the secret"):
        cohort.play(attempt_of(cohort, notes))
    assert notes == ["client 'c04' signed and dealt wrong shares"]


def test_09_a_truncated_list_of_shares_is_refused():
    found = refusal(meddle=meddling(frames.DELIVER, lambda message: message[:-1]))
    assert "is not a list of at most" in found


def lying(liars):
    def tamper(kind, name, reply):
        if kind != frames.UNMASK or name not in liars:
            return reply
        end = len(reply) - 64
        return (
            reply[:HEAD]
            + b"".join(bytes((0, *reply[at + 1 : at + 32], 7)) for at in range(HEAD, end, 33))
            + reply[end:]
        )

    return tamper


@pytest.mark.parametrize("liars", [("c00",), ("c03",), ("c00", "c01"), ("c01", "c05")])
def test_10_wrong_shares_are_found_and_others_used(liars):
    cohort, notes = cohort_of(9, tamper=lying(liars)), []
    attempt = attempt_of(cohort, notes)
    decoded = attempt.session.encoding.decode(cohort.play(attempt).words, 9)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)
    named = " ".join(notes)
    assert [name for name in cohort.names if f"'{name}'" in named] == [n for n in liars if f"'{n}'" in named]
    assert "c00" not in liars or "'c00'" in named


def test_10_too_many_wrong_shares_are_an_error_that_names_the_owner():
    cohort = cohort_of(6, tamper=lying(("c00", "c01", "c03", "c04")))
    with pytest.raises(AttemptError, match=r"client 'c0[0-5]' has 2 opened shares, 3 are needed"):
        cohort.play(attempt_of(cohort))


def test_10_the_search_among_many_shares_ends():
    opened = recovery.Opened(30)
    for place in range(1, 61):
        opened.add(0, place, place, place)
    tries = []
    with pytest.raises(ProtocolError, match="do not match the secret"):
        recovery.recover(opened, 0, "c00", lambda secret: tries.append(1) is not None)
    assert 0 < len(tries) <= 2000


def test_11_survivors_below_the_threshold_or_the_minimum_are_refused():
    def two(message):
        return message[:HEAD] + bytes((0b0000110,)) + message[HEAD + 1 :]

    for mode, kind in (("active", frames.SURVIVORS), ("hbc", frames.UNMASK)):
        assert "found 2 survivors" in refusal(mode=mode, meddle=meddling(kind, two))


def test_11_a_list_of_survivors_without_oneself_or_with_strangers_is_refused():
    def without(message):
        return message[:HEAD] + bytes((message[HEAD] & ~4,))

    found = refusal(meddle=meddling(frames.SURVIVORS, without))
    assert found == "this client sent its vector and is not on the list of survivors"

    def back(message):  # c05 never shared its secrets with the victim
        return message[:HEAD] + bytes((message[HEAD] | 32,))

    gone = {"lost": lambda kind, name: kind == frames.KEYS and name == "c05"}
    found = refusal(mode="hbc", meddle=meddling(frames.UNMASK, back), **gone)
    assert found == "1 survivor did not share secrets with this client"


CASES = [
    ({"minimum": 2}, "would begin with 2"),
    ({"survivors": 2}, "would end with 2"),
    ({"survivors": 99}, "would end with 99"),
    ({"threshold": 2}, "the threshold is 2"),
    ({"threshold": 6}, "the threshold is 6"),
    ({"neighbours": 4, "threshold": 3}, "4 neighbours, which is too few"),
    ({"mode": "none", "threshold": 4}, "the mode is unknown"),
    ({"bits": 31}, "words of 31 bits are unknown"),
    ({"cipher": "rc4"}, "the cipher is unknown"),
    ({"max_weight": 9.0}, "weights up to 9 are too large"),
    ({"max_weight": 0.0}, "weights up to 0"),
    ({"clip": 0.0}, "the clip is not a valid bound"),
    ({"levels": 2**31}, "may overflow"),
    ({"levels": 5}, "contradict each other"),
    ({"words": 5}, "contradict each other"),
    ({"words": 2**40}, "more than the policy allows"),
    ({"version": "flctl-secagg/0"}, "speaks version 1 .* version 0"),
    ({"cohort": ("c01", "c00", "c02", "c03", "c04", "c05")}, "not sorted"),
    ({"cohort": ("c00", "c01", "c02", "c02", "c04", "c05")}, "names a client twice"),
    ({"cohort": ("c00", "c01", "c03", "c04", "c05")}, "not in the cohort"),
    ({"cohort": ("c00", "c02", "c03", "sybil1", "sybil2", "sybil3")}, "3 clients of the cohort not on the roster"),
    ({"cohort": ("c01", "c02")}, "the cohort has 2 clients"),
]


@pytest.mark.parametrize(
    ("changes", "said"), CASES, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_12_parameters_outside_of_the_policy_are_refused(changes, said):
    cohort = cohort_of(6)
    found = dataclasses.replace(parameters(cohort.names, run=cohort.roster.run), **changes)
    hello = frames.frame(frames.HELLO, found.sid(cohort.roster), found.canonical())
    with pytest.raises(ProtocolError, match=said):
        cohort.client(VICTIM).step(b"", hello, None, ASKED)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "active"}, "needs active mode"),
        ({"minimum": 7}, "the policy needs 7"),
        ({"minimum": 0}, None),
        ({"threshold": 5}, "the threshold is 3, expected 5 to 5"),
        ({"run": "another"}, "belongs to another run"),
        ({"rounds": 0}, "round 1 is above 0, the last one"),
        ({"bits": (20, 24)}, "words have 32 bits, expected 20 or 24"),
        ({"ciphers": ("aes-256-ctr",)}, "the cipher is aes-128-ctr, expected aes-256-ctr"),
        ({"clip_floor": 5.0}, "the clip is 4, expected 5 to 1000"),
        ({"clip": 3.0}, "the clip is 4, expected 0.001 to 3"),
    ],
)
def test_12_the_policy_is_the_client_s_own(policy, said):
    cohort = cohort_of(6, policy=Policy(**{"minimum": 3, "max_weight": 8.0, **policy}))
    found = parameters(cohort.names, run=cohort.roster.run)
    hello = frames.frame(frames.HELLO, found.sid(cohort.roster), found.canonical())
    if said is None:
        assert cohort.client(VICTIM).step(b"", hello, None, ASKED)[1]
        return
    with pytest.raises(ProtocolError, match=said):
        cohort.client(VICTIM).step(b"", hello, None, ASKED)


def test_12_no_policy_goes_below_three_clients():
    cohort = cohort_of(3, policy=Policy(minimum=0, max_weight=8.0))
    found = dataclasses.replace(parameters(cohort.names, run=cohort.roster.run), cohort=("c00", "c02"), neighbours=1)
    with pytest.raises(ProtocolError, match="the cohort has 2 clients, the policy needs 3"):
        cohort.client(VICTIM).step(b"", frames.frame(1, found.sid(cohort.roster), found.canonical()), None, ASKED)


def test_12_a_sparse_graph_is_refused_where_it_is_not_safe():
    roster, _, names = identities(60)
    policy = Policy(minimum=3, max_weight=8.0, corrupt=0.05, dropped=0.05)
    safe = parameters(names, run=roster.run, neighbours=14, threshold=8)
    policy.check(dataclasses.replace(safe, neighbours=58, threshold=40), "c00", roster)
    for degree, threshold in ((4, 3), (13, 8), (58, 3)):
        with pytest.raises(ProtocolError, match=r"which is too few|the threshold is"):
            policy.check(dataclasses.replace(safe, neighbours=degree, threshold=threshold), "c00", roster)
    active = dataclasses.replace(safe, mode="active", neighbours=58, threshold=40)
    with pytest.raises(ProtocolError, match="needs the complete graph"):
        policy.check(active, "c00", roster)


def test_13_a_server_alone_with_one_honest_client_learns_nothing():
    """All of the cohort but the victim are the server's inventions, with keys of the server's making."""
    cohort = cohort_of(6)
    forged = make_roster(cohort.roster.run, {**cohort.roster.keys, "c00": bytes(32)}, primitives.new_key())
    found = parameters(cohort.names, run=cohort.roster.run)
    hello = frames.frame(frames.HELLO, found.sid(forged), found.canonical())  # bound to another roster
    with pytest.raises(ProtocolError, match="belongs to another session"):
        cohort.client(VICTIM).step(b"", hello, None, ASKED)


def test_13_a_roster_that_the_operator_did_not_sign_is_refused():
    roster, _, _ = identities(3)
    changed = dataclasses.replace(roster, keys={**roster.keys, "c00": bytes(32)})
    with pytest.raises(IntegrityError, match="signature is invalid"):
        changed.check()
    with pytest.raises(IntegrityError, match="another key"):
        roster.check(operator=bytes(32))
    double = Roster(roster.run, roster.graph_seed, roster.operator, {"a": bytes(32), "b": bytes(32)}, b"")
    with pytest.raises(IntegrityError):
        double.check()
    key = primitives.new_key()
    with pytest.raises(IntegrityError, match="the same key for two clients"):
        make_roster("run", dict.fromkeys("ab", identity_public(key)), key).check()


def test_21_a_client_that_trained_from_another_model_sends_nothing():
    cohort = cohort_of(6, asked=lambda name: dataclasses.replace(ASKED, digest="0" * 64) if name == VICTIM else ASKED)
    attempt = attempt_of(cohort)
    assert VICTIM not in cohort.play(attempt).survivors
    assert "the work differs from the work of the session" in cohort.refusals[VICTIM].message


def test_22_a_masked_vector_that_is_changed_on_its_way_costs_its_sender():
    """Flipped, or signed by another: its sender drops out before the list is fixed, and its masks are mended."""
    for change in (lambda r: r[:-1] + bytes((r[-1] ^ 1,)), lambda r: r[:HEAD] + bytes(64) + r[HEAD + 64 :]):
        cohort, notes = cohort_of(6), []
        cohort.tamper = lambda at, who, reply, c=change: c(reply) if (at, who) == (frames.DELIVER, "c03") else reply
        attempt = attempt_of(cohort, notes, mode="active")
        unmasked = cohort.play(attempt)
        assert set(unmasked.survivors) == set(cohort.names) - {"c03"}
        assert notes == ["client 'c03' is left out: it did not sign its masked vector"]
        decoded = attempt.session.encoding.decode(unmasked.words, 5)
        exact = sum(cohort.vectors[name]["delta"].astype(np.float64) for name in unmasked.survivors)
        np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)


def test_22_a_signed_vector_that_was_not_masked_as_agreed_gives_no_sum():
    """A member that adds other words than it should: the constant of one for each survivor does not come out."""
    cohort = cohort_of(6)

    def tamper(at, name, reply):
        if (at, name) != (frames.DELIVER, "c03"):
            return reply
        packed = bytes(len(reply) - HEAD - 64)
        return reply[:HEAD] + signed_vector(cohort, name, packed) + packed

    cohort.tamper = tamper
    attempt = attempt_of(cohort)
    with pytest.raises(ProtocolError, match="not that of 6 clients"):
        attempt.session.encoding.decode(cohort.play(attempt).words, 6)


def test_23_of_two_masked_vectors_the_first_counts():
    cohort = cohort_of(6)
    attempt = attempt_of(cohort)
    protocol, replies = attempt.run(), None
    try:
        while True:
            phase = protocol.send(replies)
            once = list(cohort.replies(phase))
            replies = iter([*once, *((name, once[0][1]) for name, _ in once), ("stranger", once[0][1])])
    except StopIteration as finished:
        decoded = attempt.session.encoding.decode(finished.value.words, 6)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)


def test_24_a_client_that_restarts_after_its_vector_counts_as_dead():
    cohort = cohort_of(9)

    def meddle(kind, name, message):
        if kind == frames.UNMASK and name == "c04":
            cohort.memories.pop(name)
        return message

    cohort.meddle = meddle
    assert cohort.play(attempt_of(cohort)).survivors == cohort.names
    assert cohort.refusals["c04"].message == "this client has no such session"


def test_24_memory_of_another_client_or_changed_on_its_way_is_none():
    played = Rewound("hbc")
    memory = played.before[frames.KEYS]
    for bad in (memory[:-1], memory[:20] + bytes((memory[20] ^ 1,)) + memory[21:], b"x"):
        with pytest.raises(ProtocolError, match="has no such session"):
            played.again(frames.KEYS, memory=bad)
    other = played.cohort.client("c03")
    with pytest.raises(ProtocolError, match="has no such session"):
        other.step(memory, played.messages[frames.KEYS], None, ASKED)


def test_25_messages_are_measured_before_they_are_read(monkeypatch):
    cohort = cohort_of(6)
    session = attempt_of(cohort).session
    monkeypatch.setattr(json, "loads", lambda raw: pytest.fail("it was parsed"))
    huge = frames.frame(frames.HELLO, session.sid, bytes(frames.MOST_HELLO + 1))
    with pytest.raises(ProtocolError, match=r"a message has 4194343 bytes, expected"):
        cohort.client(VICTIM).step(b"", huge, None, ASKED)


@pytest.mark.parametrize("kind", [frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK])
def test_25_lists_longer_than_the_neighbours_are_refused(kind):
    found = refusal(meddle=meddling(kind, lambda message: message + bytes(4000)))
    assert "a message has" in found or "is not a list of at most" in found


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.sampled_from([0, 6, 38]))
def test_25_garbage_is_refused_with_an_error_of_ours(garbage, head):
    session = GARBAGE[1].session
    whole = frames.frame(frames.HELLO, session.sid, session.parameters.canonical())
    for message in (whole[:head] + garbage, garbage, frames.frame(frames.KEYS, session.sid, garbage)):
        with pytest.raises(FlctlError):
            GARBAGE[0].client(VICTIM).step(garbage, message, None, ASKED)


VICTIMS = cohort_of(6)
GARBAGE = (VICTIMS, attempt_of(VICTIMS))


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"[]",
        b"null",
        b'{"a":' * 5000,
        b"\xff\xfe",
        b'{"bits":' + b"9" * 5000 + b"}",
        dataclasses.replace(parameters(("a", "b", "c")), round=2**63).canonical(),
        dataclasses.replace(parameters(("a", "b", "c")), round=-1).canonical(),
        parameters(("a", "b", "c")).canonical().replace(b'"clip":4.0', b'"clip":NaN'),
    ],
)
def test_25_parameters_that_are_none_are_refused(raw):
    with pytest.raises(ProtocolError, match="not well-formed"):
        Parameters.read(raw)


def test_25_parameters_have_one_form():
    raw = parameters(("a", "b", "c")).canonical()
    assert Parameters.read(raw).canonical() == raw
    for other in (
        raw.replace(b'"bits":', b'"bits": '),
        raw[:-1] + b',"bits":32}',
        raw.replace(b'"bits":32', b'"bits":32.0'),
    ):
        with pytest.raises(ProtocolError, match=r"canonical form|not well-formed"):
            Parameters.read(other)


def test_26_every_attempt_has_another_id():
    """Parameters that are equal but for the server's nonce; and each parameter is bound."""
    roster, _, names = identities(6)
    first = parameters(names)
    sids = {Session(one, roster).sid for one in (first, parameters(names))}
    for field in dataclasses.fields(Parameters):
        value = getattr(first, field.name)
        other = value + 1 if isinstance(value, int | float) else value[1:] or primitives.new_key().hex()
        sids.add(dataclasses.replace(first, **{field.name: other}).sid(roster))
    sids.add(first.sid(identities(6)[0]))
    assert len(sids) == 3 + len(dataclasses.fields(Parameters))


def test_27_no_secret_is_shown_by_repr_errors_or_logs(caplog, monkeypatch):
    drawn = []
    new_key = primitives.new_key
    monkeypatch.setattr(client, "new_key", lambda: drawn.append(new_key()) or drawn[-1])
    caplog.set_level(logging.DEBUG)
    cohort, notes = cohort_of(6, tamper=lying(("c00",)), meddle=meddling(frames.UNMASK, other_survivors)), []
    attempt = attempt_of(cohort, notes, mode="active")
    try:
        cohort.play(attempt)
    except AttemptError as error:
        notes.append(repr(error))
    victim = cohort.client(VICTIM)
    kept = Memory(1, b"", {"b": drawn[0]}, {}, {1: drawn[1]})
    opened = recovery.Opened(3)
    opened.add(1, 1, 2, int.from_bytes(drawn[0], "big"))
    shown = " ".join(
        [repr(attempt), repr(victim), repr(kept), repr(opened), *notes, *map(repr, cohort.refusals.values())]
    )
    shown += caplog.text
    secrets = [*drawn, cohort.keyring.secret_of(VICTIM)]
    assert len(drawn) == 18
    for secret in secrets:
        assert secret.hex() not in shown
        assert str(int.from_bytes(secret, "big")) not in shown
        assert repr(secret)[2:-1] not in shown

"""Junk, lost replies and time: a packet that is not the server's takes no step, a message that comes again gets the
same bytes, and a session ends."""

import dataclasses

import pytest
from flctl_secagg.client.client import EXCHANGES, Client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.outbox import Outbox
from flctl_secagg.protocol import frames
from secagg_support import AttemptError, Cohort, attempt_of, cohort_of, identities

from flctl import ProtocolError

VICTIM, HEAD = "c02", 38
PHASES = [frames.HELLO, frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK]


@dataclasses.dataclass
class Patient(Cohort):
    """Clients that keep their replies, and tell the time by a clock of the test's."""

    outbox: Outbox = dataclasses.field(default_factory=Outbox)
    now: float = 1000.0

    def client(self, name) -> Client:
        made = super().client(name)
        return dataclasses.replace(made, outbox=self.outbox, clock=lambda: self.now)


def patient(count, tmp_path, **changes):
    roster, keyring, names = identities(count)
    changes.setdefault("ledger", Ledger(tmp_path / "ledger.sqlite"))
    return Patient(roster, keyring, names, outbox=Outbox(tmp_path / "outbox"), **changes)


def junk(kind, message):
    sid = message[6:HEAD]
    return {
        "no session": frames.frame(kind, bytes(32)),
        "no body": frames.frame(kind, sid),
        "too long": message + bytes(5000),
        "another phase": frames.frame(frames.HELLO if kind != frames.HELLO else frames.KEYS, sid, b"x"),
        "noise": frames.frame(kind, sid, bytes(len(message) - HEAD)),
    }


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("what", ["no session", "no body", "too long", "another phase", "noise"])
def test_a_packet_of_junk_takes_no_step_from_the_honest_message(kind, what):
    cohort = cohort_of(6)
    refused = []

    def meddle(at, name, message):
        if (at, name) == (kind, VICTIM):
            vector = cohort.vectors[name] if at == frames.DELIVER else None
            try:
                memory = cohort.memories.get(name, b"")
                cohort.client(name).step(memory, junk(kind, message)[what], vector, cohort.request(name))
            except ProtocolError as error:
                refused.append(error.message)
        return message

    cohort.meddle = meddle
    assert VICTIM in cohort.play(attempt_of(cohort, mode="active")).survivors
    assert len(refused) == 1
    assert cohort.refusals == {}


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("memory", ["kept", "lost"])
def test_a_message_that_comes_again_gets_the_same_bytes(kind, memory, tmp_path):
    """The victim's reply is lost once, and the server sends its message again; with the memory from before the step, or
    without any."""
    cohort = patient(6, tmp_path)
    replies = []

    def meddle(at, name, message):
        if (at, name) == (kind, VICTIM):
            before = cohort.memories.get(name, b"")
            replies.append(cohort.answer(name, message, at == frames.DELIVER))
            cohort.memories[name] = before if memory == "kept" else b""
        return message

    cohort.meddle = meddle
    cohort.tamper = lambda at, name, reply: replies.append(reply) or reply if (at, name) == (kind, VICTIM) else reply
    assert VICTIM in cohort.play(attempt_of(cohort, mode="active")).survivors
    assert replies[0] == replies[1]
    assert cohort.refusals == {}


def test_another_message_of_a_phase_is_not_answered(tmp_path):
    """Keys with one neighbour fewer, after keys with all: two sets of shares would be two polynomials."""
    cohort, seen = patient(6, tmp_path), []

    def meddle(at, name, message):
        if (at, name) == (frames.KEYS, VICTIM):
            seen.append((cohort.memories[name], message))
        return message

    cohort.meddle = meddle
    cohort.play(attempt_of(cohort))
    memory, message = seen[0]
    records = frames.read_records(memoryview(message)[HEAD + 4 :], 160, 99, 99)
    records.pop(5)
    with pytest.raises(ProtocolError, match="was already taken"):
        cohort.client(VICTIM).step(
            memory, message[: HEAD + 4] + frames.records(records.items()), None, cohort.request(VICTIM)
        )


def test_kept_replies_are_their_owner_s_alone_and_go_with_time(tmp_path):
    cohort = patient(5, tmp_path)
    cohort.play(attempt_of(cohort))
    files = list((tmp_path / "outbox").iterdir())
    assert len(files) == 5  # one for each client and session, whatever the phase
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    cohort.now += cohort.policy.session_seconds + 1
    cohort.play(attempt_of(cohort, attempt=2))
    assert len(list((tmp_path / "outbox").iterdir())) == 5


@pytest.mark.parametrize("kind", PHASES[1:])
def test_a_session_is_over_after_its_deadlines(kind, tmp_path):
    cohort = patient(6, tmp_path)

    def meddle(at, name, message):
        if at == kind and name == cohort.names[0]:
            cohort.now += EXCHANGES * 20.0 + 1
        return message

    cohort.meddle = meddle
    with pytest.raises(AttemptError):
        cohort.play(attempt_of(cohort, mode="active", deadline=20.0))
    assert set(cohort.refusals) == set(cohort.names)
    assert {error.message for error in cohort.refusals.values()} == {
        "the session began 101 s ago and expires after 100 s"
    }


@pytest.mark.parametrize(
    ("later", "over"), [(0.0, False), (99.0, False), (-30.0, False), (-61.0, True), (86_401.0, True)]
)
def test_without_a_deadline_the_policy_s_seconds_count_and_a_clock_may_be_set_back_a_little(later, over, tmp_path):
    cohort = patient(4, tmp_path)

    def meddle(at, name, message):
        if at == frames.DELIVER and name == cohort.names[0]:
            cohort.now += later
        return message

    cohort.meddle = meddle
    if not over:
        assert len(cohort.play(attempt_of(cohort)).survivors) == 4
        return
    with pytest.raises(AttemptError):
        cohort.play(attempt_of(cohort))


def test_a_simulation_whose_clients_take_turns_does_not_end_by_the_deadline(tmp_path):
    cohort = patient(4, tmp_path)
    cohort.policy = dataclasses.replace(cohort.policy, simulation=True)

    def meddle(at, name, message):
        cohort.now += 50.0
        return message

    cohort.meddle = meddle
    assert len(cohort.play(attempt_of(cohort, deadline=20.0)).survivors) == 4

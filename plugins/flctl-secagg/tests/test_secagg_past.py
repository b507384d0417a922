"""The past of a run: a client refuses a server that deletes, repeats or rewrites a session, or tells two clients two
pasts; so does the verifier that is given the client's memory."""

import dataclasses

import pytest
from flctl_secagg.cli import commands
from flctl_secagg.client.client import Client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.protocol.past import FIRST, LINK_BYTES, Past, heads
from flctl_secagg.protocol.session import Session
from flctl_secagg.server.attempt import Attempt, decoded_sum
from flctl_secagg.server.journal import JOURNAL, Journal, Outcome, Sum
from flctl_secagg.transcripts.recording import Transcript, record_cut
from flctl_secagg.transcripts.run_verifier import verify_run
from secagg_support import AttemptError, Cohort, identities, parameters
from typer.testing import CliRunner

from flctl import IntegrityError, ProtocolError

REFUSED = "is not the one that this client remembers"


@dataclasses.dataclass
class Remembering(Cohort):
    """Clients that remember the past in a file, which each message opens anew: a restart changes nothing."""

    def client(self, name) -> Client:
        return dataclasses.replace(super().client(name), history=self.ledger)


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


class Server:
    """A server with a journal, and five clients; it holds one session a round."""

    def __init__(self, folder):
        self.folder = folder
        self.roster, self.keyring, self.names = identities(6)
        self.ledger = Ledger(folder / "keys" / "ledger.sqlite")
        self.journal = Journal(folder / "run" / "secagg")
        self.cohort, self.notes = None, []

    def hold(self, number, names=None, journal=None):
        """Holds a session of a round; returns its survivors."""
        journal, names = journal or self.journal, names or self.names
        self.cohort = Remembering(self.roster, self.keyring, names, ledger=self.ledger, work=f"{number:064}")
        past = journal.past()
        values = {"run": self.roster.run, "round": number, "work": f"{number:064}", "previous": past.head.hex()}
        session = Session(parameters(names, **values), self.roster)
        journal.begin(number, session.sid)
        outcome = Outcome(number, session.sid.hex(), "ended")
        with Transcript.new(journal.path / "transcripts", session, past) as transcript:
            attempt = Attempt(session, self.notes.append, transcript, past=past)
            try:
                unmasked = self.cohort.play(attempt)
                decoded_sum(session, unmasked)
            except AttemptError:
                journal.record(dataclasses.replace(outcome, transcript=transcript.digest))
                raise
            transcript.publish(unmasked)
        ended = dataclasses.replace(outcome, end="summed", survivors=unmasked.survivors, transcript=transcript.digest)
        journal.publish(ended, Sum(session.parameters, unmasked.survivors, unmasked.words))
        return unmasked.survivors

    def rewritten(self, change):
        """Another journal: `change` of the outcomes of this one, chained consistently."""
        journal = Journal(self.folder / "forged" / "secagg")
        for outcome in change(self.journal.outcomes()):
            journal.record(outcome)
        return journal

    def refusals(self):
        return {name: error.message for name, error in self.cohort.refusals.items()}


def test_links_lead_from_every_head_of_the_past_and_from_no_other(server):
    for number in (1, 2, 3):
        server.hold(number)
    past = server.journal.past()
    assert len(past.links) == 3 * LINK_BYTES
    for at, head in enumerate(heads(FIRST, past.links)):
        assert past.after(head) == past.links[at * LINK_BYTES :]
    assert past.head.hex() == server.journal.head()
    assert past.after(bytes(31) + b"\1") is None
    assert Past().head == FIRST


def test_clients_go_on_with_a_server_that_keeps_its_past_and_join_late(server):
    server.hold(1)
    assert server.hold(2, server.names[:5]) == server.names[:5]
    assert server.hold(3, server.names[1:]) == server.names[1:]  # c05 was not in round 2
    assert server.hold(4) == server.names
    assert {run for _, run, _, _ in server.ledger.heads()} == {server.roster.run}


FORGERIES = {
    "deleted": lambda outcomes: outcomes[:1] + outcomes[2:],
    "last deleted": lambda outcomes: outcomes[:-1],
    "all deleted": lambda outcomes: [],
    "doubled": lambda outcomes: [*outcomes[:2], outcomes[1], *outcomes[2:]],
    "rewritten": lambda outcomes: [dataclasses.replace(outcomes[0], survivors=("c00",)), *outcomes[1:]],
    "last rewritten": lambda outcomes: [*outcomes[:-1], dataclasses.replace(outcomes[-1], sid="00" * 32)],
    "reordered": lambda outcomes: [outcomes[1], outcomes[0], outcomes[2]],
}


@pytest.mark.parametrize("how", FORGERIES)
def test_clients_refuse_a_past_with_a_session_deleted_doubled_or_rewritten(server, how):
    """The server chains what it forged consistently, and leads to it from a head that the clients would know."""
    for number in (1, 2, 3):
        server.hold(number)
    forged = server.rewritten(FORGERIES[how])
    true, claimed = server.journal.past(), forged.past()
    lies = Past.after
    with pytest.MonkeyPatch.context() as patch:  # a server that lies sends links from any head
        patch.setattr(Past, "after", lambda self, head: lies(self, head) or lies(self, FIRST)[-LINK_BYTES:])
        with pytest.raises(AttemptError):
            server.hold(4, journal=forged)
    assert claimed.links != true.links
    assert set(server.refusals()) == set(server.names)
    assert all(REFUSED in message for message in server.refusals().values())


def test_a_client_whose_memory_is_not_of_the_server_s_past_is_left_out_by_name(server):
    for number in (1, 2):
        server.hold(number)
    server.notes.clear()
    with pytest.raises(AttemptError, match="0 of 6 clients shared"):
        server.hold(3, journal=server.rewritten(lambda outcomes: []))
    assert server.notes == [
        f"client '{name}' is left out: it remembers another past of the run" for name in server.names
    ]


def test_two_clients_that_were_told_two_pasts_do_not_share_a_later_session(server):
    """A fork: after round 1, c00 to c02 hold round 2 on one record, and c03 to c05 on another."""
    server.hold(1)
    fork = server.rewritten(lambda outcomes: outcomes)
    server.hold(2, server.names[:3])
    server.hold(2, server.names[3:], journal=fork)
    lies = Past.after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Past, "after", lambda self, head: lies(self, head) or b"")
        with pytest.raises(AttemptError):
            server.hold(3)
    assert set(server.refusals()) == set(server.names[3:])


def test_two_processes_of_a_client_cannot_follow_two_pasts(server):
    server.hold(1)
    ((_, run, head, sid), *_) = server.ledger.heads()
    after, other = (heads(head, sid + bytes((n,)) * 32) for n in (1, 2))
    (_, after), (_, other) = after, other
    Ledger(server.folder / "keys" / "ledger.sqlite").follow("c00", run, after, b"a" * 32, sid + bytes((1,)) * 32)
    with pytest.raises(ProtocolError, match=REFUSED):
        server.ledger.follow("c00", run, other, b"b" * 32, sid + bytes((2,)) * 32)


def test_a_session_that_the_server_was_stopped_in_is_part_of_the_past(server, monkeypatch):
    """Without a transcript: the journal's note that it began gives it an outcome, and its clients go on."""
    server.hold(1)
    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "play", lambda self, attempt: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            server.hold(2)
    for path in (server.journal.path / "transcripts").glob("round-00002*"):
        path.unlink()
    record_cut(server.journal)
    assert [one.end for one in server.journal.outcomes()] == ["summed", "cut"]
    assert server.hold(3) == server.names


def lines_of(run, server):
    """The rest of a run's directory that the verifier reads."""
    (run / "checkpoints").mkdir()
    outcomes = Journal(run / "secagg").outcomes()
    text = "".join(f'{{"round": {one.round}, "answered": {len(one.survivors)}}}\n' for one in outcomes)
    (run / "metrics.jsonl").write_text(text)


def test_the_verifier_finds_a_run_rewritten_with_the_operator_s_key_by_a_client_s_memory(server, tmp_path):
    """The server has all keys: it holds the run anew with clients of its own making, and everything is consistent."""
    for number in (1, 2):
        server.hold(number)
    honest = server.folder / "run"
    lines_of(honest, server)
    assert [one.round for one in verify_run(honest, remembered=server.folder / "keys" / "ledger.sqlite")] == [1, 2]
    victims = server.ledger
    server.ledger, server.journal = Ledger(tmp_path / "played.sqlite"), Journal(tmp_path / "again" / "secagg")
    for number in (1, 2):
        server.hold(number)
    lines_of(tmp_path / "again", server)
    assert len(verify_run(tmp_path / "again")) == 2
    with pytest.raises(IntegrityError, match="client 'c00' remembers another past"):
        verify_run(tmp_path / "again", remembered=victims.path)
    result = CliRunner().invoke(commands.app, ["verify", str(tmp_path / "again"), "--keys", str(victims.path.parent)])
    assert isinstance(result.exception, IntegrityError)


def test_a_transcript_without_the_past_that_its_session_binds_does_not_hold(server):
    for number in (1, 2):
        server.hold(number)
    run = server.folder / "run"
    lines_of(run, server)
    path = sorted((run / "secagg" / "transcripts").iterdir())[1]
    path.write_bytes(path.read_bytes().replace(server.journal.past().links[:8], bytes(8), 1))
    from flctl_secagg.transcripts.verifier import verify

    with pytest.raises(IntegrityError, match="does not have the past that its session binds"):
        verify(path)
    assert (run / "secagg" / JOURNAL).is_file()

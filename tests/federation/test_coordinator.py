"""The coordinator's side without a hub: whom it waits for, what it takes from a reply, and when it stops waiting."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flctl.errors import IncompatibleError
from flctl.federation.content import FailureBody, pack_reply
from flctl.federation.coordinator.collecting import Collecting, Patience
from flctl.federation.coordinator.decisions import Decisions, ago
from flctl.federation.coordinator.orders import Posted
from flctl.federation.coordinator.run_folder import RunFolder
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.envelope import BlobRef, Envelope
from flctl.federation.transport.hub_client import SiteState, TaskProgress
from flctl.types import Failure, Reply

UNTIL, PLAN = "2099-01-01T00:00:00+00:00", "ab" * 32
SITES = ("elm-street", "st-marys")


class ScriptedHub:
    """A hub client that answers from lists, and records what was cancelled."""

    def __init__(self, replies=(), notes=(), states=None, blobs=None):
        self._replies, self._notes, self._states, self.blobs = list(replies), list(notes), states or {}, blobs or {}
        self.cancelled = []

    def replies(self, run, after, wait):
        return [(number, one) for number, one in enumerate(self._replies, 1) if number > after]

    def notes(self, run, after, wait):
        return [(number, one) for number, one in enumerate(self._notes, 1) if number > after]

    def sites(self):
        return self._states

    def cancel(self, run, tasks):
        self.cancelled += list(tasks)

    def fetch_blob(self, sha256, size, into):
        into.write_bytes(self.blobs[sha256])


class ScriptedMember:
    """A member that reads envelopes as they are, and opens blobs that are not sealed."""

    def __init__(self, client):
        self.client = client

    def read(self, envelope):
        if envelope is None:
            raise Refused(Reason.ENVELOPE_SENDER)
        return envelope

    def open_blob(self, run, ref, sealed, plain):
        plain.write_bytes(sealed.read_bytes())


def reply(task, sender="st-marys", **fields):
    return Envelope("h", "r", PLAN, sender, "uni", fields.pop("kind", "reply"), UNTIL, task=task, **fields)


def collect(tmp_path, hub, posted=("t1",), deadline=None, patience=None):
    folder = RunFolder.of(tmp_path / "run")
    collecting = Collecting(ScriptedMember(hub), folder, PLAN, patience or Patience())
    return dict(collecting.replies([Posted(task, "st-marys", 1000) for task in posted], deadline))


BLOB = "cd" * 32
REF = BlobRef(BLOB, 100, "ef" * 32, "00")
BODY = pack_reply(Reply(b"update", {"loss": 0.5}))


def test_a_reply_is_fetched_opened_and_removed(tmp_path):
    hub = ScriptedHub([reply("t1", blobs=(REF,))], blobs={BLOB: BODY})
    assert collect(tmp_path, hub) == {"st-marys": Reply(b"update", {"loss": 0.5})}
    assert list((tmp_path / "run" / "federation" / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("envelope", "blobs", "expected"),
    [
        (reply("t1", sender="elm-street", blobs=(REF,)), {}, Reason.ENVELOPE_SENDER.sentence),
        (reply("t1"), {}, Reason.REPLY_SIZE.sentence),
        (reply("t1", blobs=(BlobRef(BLOB, 1001, "ef" * 32, "00"),)), {}, Reason.REPLY_SIZE.sentence),
        (reply("t1", blobs=(REF,)), {BLOB: b"no frame"}, "a message of 8 bytes"),
        (reply("t1", body={"other": 1}), {}, "a reply's body has a failure or nothing"),
    ],
)
def test_a_reply_that_cannot_be_used_is_a_protocol_failure(tmp_path, envelope, blobs, expected):
    found = collect(tmp_path, ScriptedHub([envelope], blobs=blobs))["st-marys"]
    assert isinstance(found, Failure)
    assert found.kind == "protocol"
    assert expected in found.message


def test_a_sites_failure_keeps_its_kind_and_an_unknown_kind_is_an_exception(tmp_path):
    bodies = [FailureBody("denied", "plan-revoked", "No."), FailureBody("os._exit", "", "")]
    hub = ScriptedHub([reply(f"t{k}", body=body.to_json()) for k, body in enumerate(bodies)])
    first = collect(tmp_path, hub, ("t0",))["st-marys"]
    second = collect(tmp_path, hub, ("t1",))["st-marys"]
    assert first == Failure("denied", "No. (plan-revoked)")
    assert second == Failure("exception", "os._exit")


def test_replies_of_strangers_other_plans_and_other_tasks_are_left_alone(tmp_path):
    other = Envelope("h", "r", "00" * 32, "st-marys", "uni", "reply", UNTIL, task="t1", blobs=(REF,))
    hub = ScriptedHub([None, other, reply("t9", blobs=(REF,)), reply("t1", blobs=(REF,))], blobs={BLOB: BODY})
    assert isinstance(collect(tmp_path, hub)["st-marys"], Reply)


PROGRESS = TaskProgress("t1", 3, 9)


@pytest.mark.parametrize(
    ("state", "deadline", "expected"),
    [
        (SiteState(601.0, None, None), None, "away"),
        (SiteState(1.0, 301.0, PROGRESS), None, "stalled"),
        (SiteState(1.0, 1.0, PROGRESS), 0.0, "deadline"),
    ],
)
def test_a_site_that_does_not_answer_fails_with_its_kind_and_its_task_is_withdrawn(tmp_path, state, deadline, expected):
    hub = ScriptedHub(states={"st-marys": state})
    assert collect(tmp_path, hub, deadline=deadline)["st-marys"].kind == expected
    assert hub.cancelled == ["t1"]


@pytest.mark.parametrize(
    "state",
    [
        SiteState(599.0, None, None),
        SiteState(1.0, 299.0, PROGRESS),
        SiteState(1.0, 999.0, TaskProgress("t2", 1, 9)),  # busy with another run
        SiteState(None, None, None),  # the hub has just been restarted
    ],
)
def test_a_site_that_is_slow_is_waited_for(tmp_path, state):
    hub = ScriptedHub(states={"st-marys": state}, blobs={BLOB: BODY})
    looks = []

    def late(run, after, wait):
        looks.append(after)
        return [(1, reply("t1", blobs=(REF,)))] if len(looks) == 3 else []

    hub.replies = late
    assert isinstance(collect(tmp_path, hub)["st-marys"], Reply)
    assert hub.cancelled == []


def decisions(tmp_path, notes):
    said = []
    plan = SimpleNamespace(digest=PLAN, sites=SITES)
    hub = ScriptedHub(notes=notes)
    return Decisions(ScriptedMember(hub), RunFolder.of(tmp_path / "run"), plan, said.append), hub, said


def decided(site, decision, **fields):
    body = {"decision": decision, "reason": "ethics vote 12"}
    return Envelope("h", "r", fields.get("plan", PLAN), site, "uni", "decision", UNTIL, body=body)


def test_a_run_waits_until_every_site_has_approved_and_says_for_whom(tmp_path):
    waiting, hub, said = decisions(tmp_path, [decided("st-marys", "approve"), decided("elm-street", "x")])
    assert not waiting.approved()
    assert said == ["st-marys approved the plan", "waiting for elm-street: not reviewed yet, asked just now"]
    hub._notes += [None, decided("stranger", "approve"), decided("elm-street", "approve", plan="00" * 32)]
    assert not waiting.approved()
    hub._notes += [decided("elm-street", "approve")]
    assert waiting.approved()
    again, _, _ = decisions(tmp_path, [])
    assert again.approved()  # a resumed run knows them


@pytest.mark.parametrize("decision", ["deny", "revoke"])
def test_a_denial_or_revocation_ends_the_run_with_the_sites_reason(tmp_path, decision):
    waiting, _, _ = decisions(tmp_path, [decided("st-marys", "approve"), decided("elm-street", decision)])
    with pytest.raises(IncompatibleError, match="elm-street: ethics vote 12"):
        waiting.approved()


def test_times_since_a_question_are_in_words():
    import time

    now = time.time()
    assert [ago(now - seconds) for seconds in (1, 125, 7300, 200000)] == ["just now", "2 min ago", "2 h ago", "2 d ago"]

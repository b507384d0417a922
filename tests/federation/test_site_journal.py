"""Journal and outbox of a site: a step is begun once, and a reply that is there never changes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from flctl.errors import IntegrityError, ProtocolError
from flctl.federation.content import FailureBody, OrderBody, pack_reply, unpack_reply
from flctl.federation.reasons import Refused
from flctl.federation.site.journal import Journal, SiteStep
from flctl.federation.site.outbox import Outbox
from flctl.federation.transport.sealing import open_file
from flctl.types import Reply


def step(task="t1", round_number=1, phase="1", **changes):
    return SiteStep(task, "run", "plan", round_number, phase, 0, **changes)


@pytest.fixture
def journal(tmp_path):
    made = Journal.open(tmp_path / "journal.sqlite")
    yield made
    made.close()


def test_a_claimed_step_may_be_begun_again_after_a_kill(journal, tmp_path):
    journal.claim(step(), once=False)
    again = Journal.open(tmp_path / "journal.sqlite")
    again.claim(step(), once=False)
    assert [one.state for one in again.of_run("run")] == ["claimed"]
    again.close()


@pytest.mark.parametrize(
    ("state", "second", "once", "reason"),
    [
        ("claimed", {}, True, "step-claimed"),
        ("replied", {}, False, "step-claimed"),
        ("uploaded", {}, False, "step-claimed"),
        ("claimed", {"task": "t2"}, False, "round-changed"),
    ],
)
def test_a_step_is_not_begun_twice(journal, state, second, once, reason):
    journal.claim(step(), once=once)
    journal.move("t1", state)
    with pytest.raises(Refused) as refused:
        journal.claim(step(**second), once=once)
    assert refused.value.reason.value == reason
    assert [one.task for one in journal.of_run("run")] == ["t1"]


def test_settled_rounds_leave_the_outbox_and_later_ones_stay(journal):
    for number in (1, 2, 3):
        journal.claim(step(f"t{number}", number), once=False)
        journal.move(f"t{number}", "uploaded", moved=10)
    assert journal.settle("run", 2) == ["t1", "t2"]
    assert [one.state for one in journal.of_run("run")] == ["settled", "settled", "uploaded"]
    assert (journal.newest_round("run"), journal.newest_round("other")) == (3, 0)
    assert journal.bytes_since(0) == 30


def test_bytes_of_refused_orders_count_too(journal):
    journal.claim(step("t1", 1, bytes=10), once=False)
    journal.spend(100)
    assert journal.bytes_since(0) == 110
    assert journal.bytes_since(time.time() + 1) == 0


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError, match="is not a journal"):
        Journal.open(tmp_path / "journal.sqlite")


def test_a_reply_in_the_outbox_is_sealed_and_final(tmp_path):
    outbox, keys = Outbox(tmp_path / "outbox"), []

    def envelope(facts, key):
        keys.append((facts, key))
        return b"envelope %d" % len(keys)

    first = outbox.put("t1", b"CANARY body", envelope)
    again = outbox.put("t1", b"another body", envelope)
    assert first == again
    assert first.envelope == b"envelope 1"
    assert all(b"CANARY" not in path.read_bytes() for path in (tmp_path / "outbox").iterdir())
    ((facts, key),) = keys
    open_file(first.blob, tmp_path / "plain", key, facts.plaintext)
    assert (tmp_path / "plain").read_bytes() == b"CANARY body"
    outbox.remove(["t1"])
    assert list((tmp_path / "outbox").iterdir()) == []


def test_a_reply_without_a_body_is_an_envelope_alone(tmp_path):
    stored = Outbox(tmp_path).put("t1", None, lambda facts, key: b"failed")
    assert (stored.blob, stored.envelope) == (None, b"failed")


def test_replies_and_bodies_read_back():
    reply = Reply(b"message", {"loss": 0.5})
    assert unpack_reply(pack_reply(reply)) == reply
    assert OrderBody.read(OrderBody("train", ("work",)).to_json()) == OrderBody("train", ("work",))
    assert FailureBody.read(FailureBody("memory", "", "Too large.").to_json()).kind == "memory"
    assert FailureBody.read({}) is None


@pytest.mark.parametrize(
    "body",
    [
        {"failure": {"kind": "x"}},
        {"failure": {"kind": "x", "reason": 1, "sentence": ""}},
        {"failure": {"kind": "x", "reason": "", "sentence": "y" * 501}},
        {"other": 1},
    ],
)
def test_a_failure_of_another_form_is_refused(body):
    with pytest.raises(ProtocolError):
        FailureBody.read(body)


@pytest.mark.parametrize("body", [{"ask": "train", "parts": ["../x"]}, {"ask": 1, "parts": []}, {"ask": "train"}])
def test_an_order_of_another_form_is_refused(body):
    with pytest.raises(ProtocolError):
        OrderBody.read(body)


def test_the_agent_imports_neither_torch_nor_the_hubs_server():
    program = "import sys, flctl.federation.site.agent; print([m for m in ('torch', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Orders and answers by a hub or a coordinator that means harm: they are recorded, and the site stays up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from support.network import Network
from support.plans import make_plan

from flctl.client.memory_store import MemoryStore
from flctl.errors import ProtocolError
from flctl.federation.content import content_digest
from flctl.federation.coordinator.run_folder import RunFolder
from flctl.federation.identity import renewals
from flctl.federation.identity.certificates import Authority, has_expired
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site import agent as agents
from flctl.federation.site import intake
from flctl.federation.site.run_files import SiteRun
from flctl.federation.transport.envelope import BlobRef, Envelope
from flctl.federation.transport.line import Answer, Line
from flctl.federation.transport.retries import Interrupted
from flctl.federation.transport.tasks import task_id
from flctl.federation.transport.transfers import _stored


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    made = Network(tmp_path_factory.mktemp("network"))
    with made.hub:
        yield made


@pytest.fixture
def agent(network):
    made = network.agent("trinity")
    network.gates["trinity"].events.clear()
    yield made
    made.close()


@pytest.fixture
def uni(network):
    made = network.member("uni")
    made.greet()
    return made


def a_plan(network: Network, **changes: Any) -> Plan:
    facts = {"federation": "hospitals", "coordinator": "uni", "sites": network.sites, "study": None}
    return make_plan(**{**facts, "roster": network.enrolment.roster().digest, **changes})


def envelope(plan: Plan, kind: Any, **fields: Any) -> Envelope:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    known = {"federation": "hospitals", "run": plan.run, "plan": plan.digest, "sender": "uni", "recipient": "trinity"}
    return Envelope(**{**known, "kind": kind, "until": until, **fields})


def keep(agent: Any, plan: Plan) -> None:
    SiteRun.of(agent.home, plan.run).keep_plan(plan.to_json(), b"")


@pytest.mark.parametrize("body", [{"settled": 1 << 63}, {"forget": 1 << 70}, {"retract": 1 << 70}])
def test_a_notice_about_a_round_that_cannot_be_leaves_the_site_up(network, agent, uni, body):
    plan = a_plan(network, run="beyond")
    keep(agent, plan)
    agent.handle(uni.write(envelope(plan, "notice", body={**body, "number": 1})))
    assert [event["reason"] for event in network.gates["trinity"].events] == ["round-beyond"]


def test_a_notice_that_is_replayed_changes_no_memory(network, agent, uni):
    """The hub gives all notices again to an agent that starts."""
    plan = a_plan(network, run="replayed", derived=replace(make_plan().derived, memory_layout={"c": 1}))
    keep(agent, plan)
    store = MemoryStore(SiteRun.of(agent.home, plan.run).memory, len(plan.sites), {"c": 1})
    notices = [uni.write(envelope(plan, "notice", body={"forget": 1, "number": number})) for number in (1, 2)]
    place = [plan.site_index("trinity")]
    for number in (1, 2):
        store.write(place, number, {"c": np.full((1, 1), number, np.float32)})
    agent.handle(notices[0])
    assert store.newest(place[0], 9)[0] == 1
    store.write(place, 2, {"c": np.full((1, 1), 2, np.float32)})
    agent.handle(notices[0])
    assert store.newest(place[0], 9)[0] == 2
    agent.handle(notices[1])
    assert store.newest(place[0], 9)[0] == 1
    store.close()


def test_notices_are_numbered_also_after_a_restart(tmp_path):
    assert [RunFolder.of(tmp_path).next_notice() for _ in range(3)] == [1, 2, 3]


def test_an_order_that_raises_anything_leaves_the_site_up(network, agent, uni, monkeypatch):
    plan = a_plan(network, run="raises")
    keep(agent, plan)
    monkeypatch.setattr(agent.steps, "answer", lambda order: [][order])
    agent.handle(uni.write(envelope(plan, "task", task="a" * 64, round=1, phase="1")))
    assert [event["reason"] for event in network.gates["trinity"].events] == ["exception"]


def test_a_strangers_text_stays_out_of_the_record(network, agent, uni):
    agent.handle(uni.write(envelope(a_plan(network), "notice", run="a\u202eb\x1b[2J")))
    assert [event["run"] for event in network.gates["trinity"].events] == [""]


def test_a_decision_that_the_hub_refuses_holds_up_no_other(network, agent, uni):
    known, unknown = a_plan(network, run="b-known"), a_plan(network, run="a-unknown")
    for plan in (known, unknown):
        keep(agent, plan)
    agent.member.greet()
    uni.client.post([uni.write(envelope(known, "notice"))])  # the hub knows this run alone
    agent._between()
    assert agent.journal.fact(f"decision {known.digest}")
    assert agent.journal.fact(f"decision {unknown.digest}") is None


@pytest.mark.parametrize(
    "value", [{}, {"envelopes": [[1]], "roster": 1}, {"envelopes": 5, "roster": 1}, {"envelopes": [], "roster": 1e400}]
)
def test_an_answer_of_another_form_is_an_error_of_the_protocol(agent, monkeypatch, value):
    monkeypatch.setattr(Line, "ask", lambda *words, **named: Answer(200, {}, value))
    with pytest.raises(ProtocolError):
        agent.member.client.tasks(0)


def test_an_agent_asks_on_after_answers_of_another_form(agent, monkeypatch):
    answers = [ProtocolError("other"), [b"an order"]]

    def asked(wait, progress):
        answer = answers.pop(0)
        if not answers:
            agent._stop.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(agents, "FAULT_SECONDS", 0.0)
    monkeypatch.setattr(agent, "_asked", asked)
    agent._poll()
    assert agent._failed is None
    assert agent._orders.get(timeout=1) == b"an order"


@pytest.mark.parametrize("receipt", [None, 5, "a" * 5000])
def test_a_receipt_that_is_none_is_not_kept(agent, monkeypatch, receipt):
    monkeypatch.setattr(Line, "ask", lambda *words, **named: Answer(200, {}, {"receipt": receipt}))
    with pytest.raises(ProtocolError):
        agent.member.client.send_note(b"{}")


@pytest.mark.parametrize("state", [None, {}, {"stored": -5}, {"stored": "5"}, {"whole": 1}])
def test_a_state_of_a_blob_that_cannot_be_is_asked_for_again(state):
    with pytest.raises(Interrupted):
        _stored(state, 10)


def test_an_agent_that_runs_for_weeks_renews_its_certificate(agent, monkeypatch):
    agent.member.greet()
    file = agent.home.identity / "tls.pem"
    first = file.read_bytes()
    monkeypatch.setattr(renewals, "needs_renewal", lambda path: True)
    agent._between()
    assert file.read_bytes() == first  # a greeting is not due yet
    assert agents.GREET_SECONDS <= 86_400
    agent._greet_at -= agents.GREET_SECONDS
    agent._between()
    assert file.read_bytes() != first


def test_a_member_that_was_off_until_its_certificate_ended_renews_it(network, agent, monkeypatch):
    member, file = Authority.member, agent.home.identity / "tls.pem"
    with monkeypatch.context() as short:
        short.setattr(renewals, "needs_renewal", lambda path: True)
        short.setattr(Authority, "member", lambda *words, **named: member(*words, **{**named, "days": 1e-7}))
        agent.member.greet()
    assert has_expired(file)
    network.member("trinity").greet()
    assert not has_expired(file)


def test_a_hub_that_refuses_a_new_certificate_leaves_the_old_one_in_use(agent, monkeypatch):
    def refused(*words):
        raise Refused(Reason.ROSTER_MEMBER)

    agent.member.greet()
    monkeypatch.setattr(renewals, "needs_renewal", lambda path: True)
    monkeypatch.setattr("flctl.federation.member.request_certificate", refused)
    assert agent.member.greet().federation == "hospitals"


def test_content_that_is_refused_counts_towards_the_days_bytes(network, agent, uni, monkeypatch):
    plan = a_plan(network, run="large")
    keep(agent, plan)
    blob = BlobRef("1" * 64, 1000, "2" * 64, "00")
    content = content_digest("train", {"work": blob.plaintext})
    task = task_id(plan.digest, 1, "1", 0, "trinity", content)
    monkeypatch.setattr(agent.steps, "_fetched", lambda *words: {"work": b"no work"})
    monkeypatch.setattr(agent.steps, "_fail", lambda *words: None)
    body, before = {"ask": "train", "parts": ["work"]}, agent.journal.bytes_since(0)
    order = envelope(plan, "task", task=task, round=1, phase="1", blobs=(blob,), body=body)
    agent.handle(uni.write(order))
    assert agent.journal.bytes_since(0) == before + 1000


def test_plans_that_wait_are_bounded_for_each_coordinator(network, agent, uni, monkeypatch):
    monkeypatch.setattr(intake, "MOST_WAITING", 2)
    monkeypatch.setattr(agent.gate, "default", None)
    for number in range(2):
        keep(agent, a_plan(network, run=f"waits-{number}"))
    third, blob = a_plan(network, run="waits-2"), BlobRef("1" * 64, 1000, "2" * 64, "00")
    agent.handle(uni.write(envelope(third, "plan", blobs=(blob,))))
    assert [event["reason"] for event in network.gates["trinity"].events] == ["plans-waiting"]


@pytest.mark.parametrize("text", ["a\u202eb.py", "a\x1b[2J.py", "a\nb.py", "a\u200bb.py"])
def test_a_plan_with_text_that_its_reader_does_not_see_is_refused(network, text):
    with pytest.raises(Refused) as refused:
        Plan.from_json(a_plan(network, files={text: "0" * 64}).to_json())
    assert refused.value.reason is Reason.PLAN_FORM


@pytest.mark.parametrize("section", ["attack", "cohort", "engine", "eval"])
def test_a_plan_whose_settings_are_none_is_not_kept(network, agent, section):
    """A rule of the policy, and the review, would end at it."""
    plan = a_plan(network, config={**make_plan().config, section: "text"})
    with pytest.raises(Refused) as refused:
        agent._plans._check(plan, envelope(plan, "plan"))
    assert refused.value.reason is Reason.PLAN_FORM


@pytest.mark.parametrize("reason", ["policy-ask", "door-clock"])
def test_a_sentence_of_the_hub_has_no_control_characters(agent, reason):
    answer = Answer(403, {}, {"reason": reason, "sentence": "a\x1b[2Jb\u202ec"})
    with pytest.raises((Refused, Interrupted)) as refused:
        agent.member.client.line._accepted(answer)
    assert str(refused.value).startswith("a[2Jbc")


@pytest.mark.parametrize("kind", ["plan", "notice"])
def test_plans_and_notices_of_a_coordinator_whose_time_is_over_are_refused(network, agent, uni, monkeypatch, kind):
    text = uni.write(envelope(a_plan(network, run="late"), kind, body={"number": 1}))
    agent.member.greet()
    monkeypatch.setattr("flctl.federation.identity.roster.today", lambda: "2098-01-02")
    agent.handle(text)
    assert [event["reason"] for event in network.gates["trinity"].events] == ["roster-member"]

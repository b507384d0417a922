"""The gate of a real site charges what runs, approves what its policy approves by itself, and knows its code."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.plans import REGISTRY, make_plan, with_config
from support.sites import POLICY, make_home

from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import sign
from flctl.federation.plan.plan import Plan
from flctl.federation.plan.versions import installed_versions
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.approvals import Totals
from flctl.federation.site.journal import Journal, SiteStep
from flctl.federation.site.policy_gate import PolicyGate
from flctl.federation.site.receipts import RECEIPT_PURPOSE, AuditReceipts
from flctl.federation.transport.envelope import BlobRef, Envelope, open_envelope, write_envelope

WITH_DP = {"target_epsilon": 2.0, "target_delta": 1e-6}
RULES = POLICY.replace("transforms: [clip]", "transforms: [clip, dp-local]")


def make_gate(path: Path, policy: str) -> PolicyGate:
    home = make_home(path, policy=policy)
    membership, identity = Membership.open(home), Identity.open(home.identity)
    keeper = membership.keeper(home)
    member: Any = SimpleNamespace(
        name="north", membership=membership, identity=identity, keeper=keeper, roster=keeper.newest()
    )
    return PolicyGate.open(home, member, REGISTRY, Journal.open(Path(":memory:")))


def planned(gate: PolicyGate, plan: Plan) -> Plan:
    return replace(plan, roster=gate.member.roster.digest, versions=installed_versions(["secagg"]), files={})


def order(plan: Plan) -> Envelope:
    return Envelope(
        federation=plan.federation,
        run=plan.run,
        plan=plan.digest,
        sender="alice",
        recipient="north",
        kind="task",
        until=(datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        round=1,
        phase="1",
        task="3" * 64,
        blobs=(BlobRef("1" * 64, 1000, "2" * 64, "00"),),
        body={"ask": "train", "parts": ["work"]},
    )


def approve(gate: PolicyGate, plan: Plan, totals: Totals | None = None) -> None:
    gate.approvals.keep(plan)
    gate.approvals.decide(gate.member.identity, plan, "approve", "because", totals=totals)


def test_a_second_plan_is_refused_once_the_first_has_spent_the_budget(tmp_path: Path) -> None:
    gate = make_gate(tmp_path, RULES.replace("runs_at_once: 1}", "runs_at_once: 1, epsilon: 3}"))
    plans = [
        planned(gate, replace(with_config("transforms", "dp-local", value=WITH_DP), run=run, study=None))
        for run in ("one", "two")
    ]
    for plan in plans:
        approve(gate, plan)
    gate.check(order(plans[0]), plans[0], "train")
    gate.check(order(plans[0]), plans[0], "train")
    with pytest.raises(Refused) as refused:
        gate.check(order(plans[1]), plans[1], "train")
    assert refused.value.reason == Reason.POLICY_EPSILON


def test_plans_of_a_study_are_charged_and_the_one_too_many_waits_for_a_person(tmp_path: Path) -> None:
    gate = make_gate(tmp_path, RULES)
    first, second, third = (planned(gate, make_plan(run=f"rate-{number}")) for number in range(3))
    approve(gate, first, Totals(runs=2, rounds=100))
    for plan in (first, second):
        assert gate.decision(plan)["decision"] == "approve"
        gate.check(order(plan), plan, "train")
    assert gate.decision(third) is None
    with pytest.raises(Refused) as refused:
        gate.check(order(third), third, "train")
    assert refused.value.reason == Reason.STUDY_TOTAL


def test_a_plan_that_matches_the_policy_is_approved_when_it_arrives_if_the_policy_says_so(tmp_path: Path) -> None:
    each, matching = (
        make_gate(tmp_path / "each", RULES),
        make_gate(tmp_path / "matching", RULES.replace("approve: each", "approve: matching")),
    )
    for gate, decision in ((each, None), (matching, "approve")):
        plan = planned(gate, make_plan(study=None))
        gate.asked(plan)
        found = gate.decision(plan)
        assert (found and found["decision"]) == decision


def test_a_refused_order_charges_nothing(tmp_path: Path) -> None:
    gate = make_gate(tmp_path, RULES)
    plan = planned(gate, make_plan(study=None))
    approve(gate, plan)
    with pytest.raises(Refused):
        gate.check(replace(order(plan), round=9), plan, "train")
    assert [line.kind for line in gate.audit.lines()] == ["planned", "decided"]
    gate.check(order(plan), plan, "train")
    assert [line.kind for line in gate.audit.lines()] == ["planned", "decided", "charged"]


def test_a_run_that_was_given_up_keeps_no_place_among_the_runs_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    gate = make_gate(tmp_path, RULES)
    plan = planned(gate, make_plan(run="next", study=None))
    approve(gate, plan)
    gate.journal.claim(SiteStep("1" * 64, "given-up", "2" * 64, 1, "1", 0), once=False)
    gate.journal.move("1" * 64, "uploaded")
    with pytest.raises(Refused) as refused:
        gate.check(order(plan), plan, "train")
    assert refused.value.reason is Reason.RUNS_AT_ONCE
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    gate.check(order(plan), plan, "train")


def test_the_gate_knows_the_model_of_each_evaluation(tmp_path: Path) -> None:
    """Many evaluations of one round would tell the rows one by one."""
    gate = make_gate(tmp_path, RULES)
    plan = planned(gate, make_plan(study=None))
    approve(gate, plan)
    body = {"ask": "evaluate", "parts": ["evaluate"]}
    step = SiteStep("1" * 64, plan.run, plan.digest, 1, "1", 0, work=f"evaluate {'2' * 64}")
    gate.journal.claim(step, once=False)
    again = replace(order(plan), phase="2", task="4" * 64, body=body)
    gate.check(again, plan, "train")  # sums of the same model
    with pytest.raises(Refused) as refused:
        gate.check(replace(again, blobs=(BlobRef("5" * 64, 1000, "6" * 64, "00"),)), plan, "train")
    assert refused.value.reason is Reason.ROUND_CHANGED


def test_a_plan_with_noise_and_no_target_is_charged_without_bound(tmp_path: Path) -> None:
    """Unless the policy has a budget, it may run; no budget that is set later has room for another."""
    gate = make_gate(tmp_path, RULES)
    noisy = with_config("transforms", "dp-local", value={"target_epsilon": None})
    plan = planned(gate, replace(noisy, study=None))
    approve(gate, plan)
    gate.check(order(plan), plan, "train")
    assert gate.approvals.spent(make_plan(run="another")) == float("inf")


def test_an_order_that_is_replayed_is_recorded_once(tmp_path: Path) -> None:
    gate = make_gate(tmp_path, RULES)
    for reason in ("round-past", "round-past", "phase-order", "round-past"):
        gate.record("refused", run="one", task="1" * 64, reason=reason)
    assert [line.facts["reason"] for line in gate.audit.lines()] == ["round-past", "phase-order"]


def test_a_receipt_that_the_hub_did_not_sign_spoils_no_record(tmp_path: Path) -> None:
    gate = make_gate(tmp_path, RULES)
    gate.record("asked", run="one")
    head = gate.head()
    sent = replace(order(make_plan()), kind="decision", body={"audit": dict(head)})
    text = write_envelope(gate.member.identity, sent)
    false = sign(gate.member.identity, RECEIPT_PURPOSE, {"digest": open_envelope(text)[1].digest})
    gate.countersigned(head, text, false)
    assert [line.kind for line in gate.audit.lines()] == ["asked", "false-receipt"]
    assert AuditReceipts(gate.audit).verify(gate.member.roster.hub.signing) == 0

"""`approve: matching`: the policy approves by itself what all of its rules allow, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.plans import REGISTRY, SHA, make_plan
from support.sites import POLICY

from flctl.federation.identity.keys import Identity
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason
from flctl.federation.site.admission import MATCHING, approve_matching
from flctl.federation.site.approvals import Approvals
from flctl.federation.site.audit import AuditLog
from flctl.federation.site.policy import Here, Policy
from flctl.federation.site.policy_file import read_rules

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
SITE = Identity.new()
PLAN = make_plan(files={}, study=None)


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(AuditLog(tmp_path / "audit.jsonl", SITE), "hospitals", "north", SITE.public.signing)


def policy(tmp_path: Path, text: str = POLICY.replace("approve: each", "approve: matching")) -> Policy:
    (tmp_path / "policy.yaml").write_text(text)
    return Policy(read_rules(tmp_path / "policy.yaml"))


def arrives(approvals: Approvals, policy: Policy, plan: Plan) -> Reason | None:
    here = Here("north", REGISTRY, approvals.code(NOW))
    approve_matching(approvals, SITE, policy, plan, here, NOW)
    return approvals.decision(plan, NOW).reason


def test_a_plan_that_all_rules_allow_is_approved_with_a_signed_statement(approvals, tmp_path) -> None:
    assert arrives(approvals, policy(tmp_path), PLAN) is None
    assert approvals.decision(PLAN, NOW).decided.statement.reason == MATCHING
    assert arrives(approvals, policy(tmp_path), PLAN) is None
    assert len(approvals.all()) == 1


def test_nothing_is_approved_where_a_person_approves_each_plan(approvals, tmp_path) -> None:
    assert arrives(approvals, policy(tmp_path, POLICY), PLAN) == Reason.PLAN_NOT_APPROVED


def test_a_plan_that_one_rule_denies_waits_for_a_person(approvals, tmp_path) -> None:
    longer = replace(PLAN, rounds=6, config={**PLAN.config, "rounds": 6})
    assert arrives(approvals, policy(tmp_path), longer) == Reason.PLAN_NOT_APPROVED


def test_a_denial_by_a_person_stands(approvals, tmp_path) -> None:
    approvals.decide(SITE, PLAN, "deny", "because", now=NOW)
    assert arrives(approvals, policy(tmp_path), PLAN) == Reason.PLAN_DENIED


def test_code_has_to_be_approved_by_a_person_before(approvals, tmp_path) -> None:
    with_code = make_plan(files={"net.py": SHA}, study=None)
    assert arrives(approvals, policy(tmp_path), with_code) == Reason.PLAN_NOT_APPROVED
    approvals.decide(SITE, make_plan(run="before", files={"net.py": SHA}), "approve", "read it", code=[SHA], now=NOW)
    assert arrives(approvals, policy(tmp_path), with_code) is None

"""Decisions of a site: default deny, the last word counts, totals of a study, reviewers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.plans import SHA, make_plan, with_config

from flctl.errors import ConfigError, IntegrityError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import sign, verify
from flctl.federation.plan.plan import Plan
from flctl.federation.plan.studies import Study, frame
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.approvals import APPROVAL_PURPOSE, Approvals, Totals
from flctl.federation.site.audit import AuditLog

SITE, REVIEWER, STRANGER = Identity.new(), Identity.new(), Identity.new()
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
LATER = datetime(2027, 3, 1, tzinfo=UTC)
PLAN = make_plan(study=None)
STUDY = make_plan(study=Study("rates", {"local.lr": (0.001, 0.5), "model.hidden": "any"}))


def opened(path: Path, **reviewers: Identity) -> Approvals:
    keys = {name: identity.public.signing for name, identity in reviewers.items()}
    return Approvals(AuditLog(path / "audit.jsonl", SITE), "hospitals", "north", SITE.public.signing, keys)


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return opened(tmp_path)


def approve(approvals: Approvals, plan: Plan = PLAN, until: str | None = None, totals: Totals | None = None) -> bytes:
    return approvals.decide(SITE, plan, "approve", "ethics vote 12/26", until=until, totals=totals, now=NOW)


def test_a_plan_that_nobody_decided_about_is_not_approved(approvals: Approvals) -> None:
    assert approvals.decision(PLAN, NOW).reason == Reason.PLAN_NOT_APPROVED
    with pytest.raises(Refused):
        approvals.decision(PLAN.digest, NOW).require()


def test_an_approval_holds_for_that_plan_alone_and_survives_a_restart(approvals: Approvals, tmp_path: Path) -> None:
    approve(approvals)
    again = opened(tmp_path)
    assert again.decision(PLAN, NOW).approved
    assert again.decision(PLAN.digest, NOW).approved
    assert again.decision(replace(PLAN, rounds=6), NOW).reason == Reason.PLAN_NOT_APPROVED


def test_an_approval_ends_with_its_last_day(approvals: Approvals) -> None:
    approve(approvals, until="2026-12-31")
    assert approvals.decision(PLAN, datetime(2026, 12, 31, 23, 59, tzinfo=UTC)).approved
    assert approvals.decision(PLAN, datetime(2027, 1, 1, tzinfo=UTC)).reason == Reason.PLAN_EXPIRED


@pytest.mark.parametrize(
    ("verbs", "reason"),
    [
        (["deny"], Reason.PLAN_DENIED),
        (["approve", "deny"], Reason.PLAN_DENIED),
        (["approve", "revoke"], Reason.PLAN_REVOKED),
        (["revoke"], Reason.PLAN_REVOKED),
        (["deny", "approve"], None),
        (["approve", "revoke", "approve"], None),
    ],
)
def test_the_last_word_about_a_plan_counts(approvals: Approvals, verbs: list[str], reason: Reason | None) -> None:
    for verb in verbs:
        approvals.decide(SITE, PLAN, verb, "because", now=NOW)
    assert approvals.decision(PLAN, NOW).reason == reason


def test_a_decision_is_a_signed_statement_with_its_reason(approvals: Approvals) -> None:
    statement = verify(approve(approvals), APPROVAL_PURPOSE, SITE.public.signing).statement
    assert (statement["plan"], statement["site"], statement["decision"], statement["reason"]) == (
        PLAN.digest,
        "north",
        "approve",
        "ethics vote 12/26",
    )


@pytest.mark.parametrize(
    ("until", "reason"), [("2026-11-26", "because"), ("soon", "because"), (None, "  "), (None, "two\nlines")]
)
def test_a_decision_without_a_reason_or_for_the_past_is_an_error(approvals: Approvals, until, reason) -> None:
    with pytest.raises(ConfigError):
        approvals.decide(SITE, PLAN, "approve", reason, until=until, now=NOW)
    assert approvals.decision(PLAN, NOW).reason == Reason.PLAN_NOT_APPROVED


def test_an_approval_that_another_key_signed_is_an_integrity_error(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl", SITE)
    forged = opened(tmp_path / "other").decide(SITE, PLAN, "approve", "because", now=NOW)
    text = sign(STRANGER, APPROVAL_PURPOSE, json.loads(forged)["statement"])
    audit.append("decided", {"by": "north", "run": PLAN.run, "signed": text.decode()}, NOW)
    with pytest.raises(IntegrityError):
        opened(tmp_path).decision(PLAN, NOW)


def test_a_revocation_that_was_cut_from_the_log_does_not_restore_the_approval(approvals: Approvals, tmp_path) -> None:
    approve(approvals)
    approvals.decide(SITE, PLAN, "revoke", "because", now=NOW)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(IntegrityError):
        opened(tmp_path).decision(PLAN, NOW)


def test_a_reviewers_approval_counts_only_if_the_policy_names_the_reviewer(tmp_path: Path) -> None:
    text = opened(tmp_path / "theirs").decide(SITE, PLAN, "approve", "because", now=NOW)
    theirs = json.loads(text)["statement"] | {"site": "board"}
    signed = sign(REVIEWER, APPROVAL_PURPOSE, theirs)
    with pytest.raises(Refused):
        opened(tmp_path).add(signed, "board", NOW)
    with pytest.raises(IntegrityError):
        opened(tmp_path, board=STRANGER).add(signed, "board", NOW)
    with pytest.raises(Refused):
        opened(tmp_path, board=REVIEWER).add(sign(REVIEWER, APPROVAL_PURPOSE, theirs | {"site": "south"}), "board", NOW)
    named = opened(tmp_path, board=REVIEWER)
    named.add(signed, "board", NOW)
    assert named.decision(PLAN, NOW).approved
    assert opened(tmp_path).decision(PLAN, NOW).reason == Reason.PLAN_NOT_APPROVED


def test_the_sites_own_denial_stands_above_a_reviewers_approval(tmp_path: Path) -> None:
    own = opened(tmp_path, board=REVIEWER)
    own.decide(SITE, PLAN, "deny", "because", now=NOW)
    text = own.decide(SITE, make_plan(run="another"), "approve", "because", now=NOW)
    theirs = json.loads(text)["statement"] | {"site": "board", "plan": PLAN.digest}
    own.add(sign(REVIEWER, APPROVAL_PURPOSE, theirs), "board", NOW)
    assert own.decision(PLAN, NOW).reason == Reason.PLAN_DENIED


def with_rate(lr: float, run: str, rounds: int = 5) -> Plan:
    config = {**with_config("local", "lr", value=lr).config, "rounds": rounds}
    return replace(STUDY, run=run, rounds=rounds, config=config)


def test_plans_of_a_study_pass_inside_its_ranges_and_no_others(approvals: Approvals) -> None:
    approve(approvals, STUDY, totals=Totals(runs=10, rounds=100))
    assert approvals.decision(with_rate(0.01, "rate-2"), NOW).approved
    assert approvals.decision(with_rate(0.6, "rate-3"), NOW).reason == Reason.STUDY_RANGE
    other = replace(with_rate(0.01, "rate-4"), purpose="another purpose")
    assert approvals.decision(other, NOW).reason == Reason.PLAN_NOT_APPROVED
    config = {**STUDY.config, "strategy": {"name": "fedprox"}}
    assert approvals.decision(replace(STUDY, run="rate-5", config=config), NOW).reason == Reason.PLAN_NOT_APPROVED
    assert approvals.decision(PLAN, NOW).reason == Reason.PLAN_NOT_APPROVED


@pytest.mark.parametrize("totals", [Totals(runs=2, rounds=100), Totals(runs=9, rounds=12)], ids=["runs", "rounds"])
def test_plans_of_a_study_are_charged_to_its_totals(approvals: Approvals, totals: Totals) -> None:
    approve(approvals, STUDY, totals=totals)
    for run in (STUDY, with_rate(0.01, "rate-2")):
        decision = approvals.decision(run, NOW)
        approvals.charge(run, decision, None, NOW)
        approvals.charge(run, decision, None, NOW)  # once for each plan
        assert approvals.decision(run, NOW).approved
    assert approvals.decision(with_rate(0.02, "rate-3"), NOW).reason == Reason.STUDY_TOTAL


def test_a_study_ends_with_its_approval(approvals: Approvals) -> None:
    approve(approvals, STUDY, totals=Totals(runs=10, rounds=100))
    assert approvals.decision(with_rate(0.01, "rate-2"), LATER).reason == Reason.PLAN_EXPIRED
    approvals.decide(SITE, STUDY, "revoke", "because", now=NOW)
    assert approvals.decision(with_rate(0.01, "rate-2"), NOW).reason == Reason.PLAN_REVOKED


def test_totals_need_a_study(approvals: Approvals) -> None:
    with pytest.raises(ConfigError, match="no study"):
        approve(approvals, PLAN, totals=Totals(1, 1))
    with pytest.raises(Refused):
        frame(PLAN.tree())


def test_the_budget_counts_every_other_plan_once(approvals: Approvals) -> None:
    other = make_plan(run="other", coordinator="bob", study=None)
    for plan, epsilon in ((PLAN, 2.0), (other, 1.5)):
        approve(approvals, plan)
        approvals.charge(plan, approvals.decision(plan, NOW), epsilon, NOW)
    assert (approvals.spent(PLAN), approvals.spent(other), approvals.spent(STUDY)) == (1.5, 2.0, 3.5)


def test_plans_that_arrived_are_kept_once_and_those_approved_are_known(approvals: Approvals) -> None:
    for plan in (PLAN, STUDY, PLAN):
        approvals.keep(plan, NOW)
    assert list(approvals.plans()) == [PLAN.digest, STUDY.digest]
    assert approvals.approved_before(STUDY) == ()
    approve(approvals)
    assert approvals.approved_before(STUDY) == (PLAN,)
    assert approvals.approved_before(PLAN) == ()


def test_code_is_approved_as_long_as_an_approval_with_it_holds(approvals: Approvals) -> None:
    approvals.decide(SITE, PLAN, "approve", "read it", code=[SHA], until="2026-12-31", now=NOW)
    assert approvals.code(NOW) == {SHA}
    assert approvals.code(LATER) == set()
    approvals.decide(SITE, PLAN, "revoke", "misread it", now=NOW)
    assert approvals.code(NOW) == set()

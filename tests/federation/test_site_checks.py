"""The eight checks of a site: each refusal is one line, in order, and nothing is decrypted before the seventh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from support.plans import REGISTRY, SHA, make_plan, single_changes, with_config

from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Member, Roster
from flctl.federation.plan.plan import MOST_BYTES, Plan
from flctl.federation.plan.versions import check_versions
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.approvals import Approvals, Standing
from flctl.federation.site.audit import AuditLog
from flctl.federation.site.checks import CHECKS, RunProgress, SiteView, Usage, check_content, check_task, scheduled_work
from flctl.federation.site.policy import Here, Policy
from flctl.federation.site.policy_file import PolicyRules
from flctl.federation.transport.envelope import BlobRef, Envelope
from flctl.types import Allowance, Work

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
OPERATOR, HUB, NORTH = Identity.new(), Identity.new(), Identity.new()
MEMBERS = {name: Member(Identity.new().public, "2027-12-31") for name in ("south", "west", "alice", "bob")}
MEMBERS["north"] = Member(NORTH.public, "2027-12-31")


def make_roster(version: int = 1, previous: str = "", **changes: Any) -> Roster:
    sites = {name: MEMBERS[name] for name in ("north", "south", "west")}
    coordinators = {name: MEMBERS[name] for name in ("alice", "bob")}
    facts = {"sites": sites, "coordinators": coordinators, **changes}
    draft = Roster(
        federation=facts.get("federation", "hospitals"),
        version=version,
        previous=previous,
        operator=OPERATOR.public.signing,
        url="https://fl.example:8443",
        sites=facts["sites"],
        coordinators=facts["coordinators"],
        hub=HUB.public,
        graph_seed=bytes(32),
    )
    return draft.signed_by(OPERATOR)


ROSTER = make_roster()
PLAN = make_plan(roster=ROSTER.digest, study=None)
POLICY = Policy(
    PolicyRules.model_validate(
        {
            "ask_for": ["train", "evaluate"],
            "coordinators": ["alice"],
            "allow": {
                "strategies": ["fedavg"],
                "models": ["mlp", "approved"],
                "transforms": ["clip"],
                "aggregators": ["secagg"],
            },
            "limits": {
                "rounds": 5,
                "local_epochs": 1,
                "minutes_a_round": 30,
                "rounds_an_hour": 10,
                "gb_a_day": 1,
                "min_rows": 50,
                "min_sites": 3,
                "runs_at_once": 2,
            },
        }
    )
)
BLOB = BlobRef("1" * 64, 1000, "2" * 64, "00")
TASK = Envelope(
    federation="hospitals",
    run="stroke-1",
    plan=PLAN.digest,
    sender="alice",
    recipient="north",
    kind="task",
    until=(NOW + timedelta(days=1)).isoformat(),
    round=1,
    phase="1",
    task="3" * 64,
    blobs=(BLOB,),
    body={"ask": "train", "parts": ["work"]},
)
VIEW = SiteView(
    name="north",
    now=NOW,
    roster=ROSTER,
    planned_roster=ROSTER,
    plan=PLAN,
    standing=Standing(None),
    policy=POLICY,
    here=Here("north", REGISTRY, frozenset({SHA})),
    versions=lambda versions: None,
    intact=lambda: frozenset({SHA}),
)


def task(**changes: Any) -> Envelope:
    return replace(TASK, **changes)


def view(**changes: Any) -> SiteView:
    return replace(VIEW, **changes)


def other(**changes: Any) -> tuple[Envelope, SiteView]:
    """An approved plan with changes, and an order for it."""
    plan = replace(PLAN, **changes)
    return task(plan=plan.digest), view(plan=plan)


def reason_of(envelope: Envelope, site: SiteView) -> Reason | None:
    """The reason for which an order is refused; None if it passes."""
    try:
        check_task(envelope, site)
    except Refused as refused:
        return refused.reason
    return None


def refuse(reason: Reason) -> Callable[..., None]:
    def refused(*_: Any) -> None:
        raise Refused(reason)

    return refused


def began(*places: tuple[int, int, int], work: str = "2" * 64, **tasks: str) -> SiteView:
    return view(progress=RunProgress(dict.fromkeys(places, "9" * 64), {(place[0], "work"): work for place in places}))


EVALUATE = {"ask": "evaluate", "parts": ["evaluate"]}


def evaluated(model: str) -> SiteView:
    """A round of one training and one evaluation."""
    tasks = dict.fromkeys(((1, 1, 0), (1, 2, 0)), "9" * 64)
    return view(progress=RunProgress(tasks, {(1, "work"): "2" * 64, (1, "evaluate"): model}))


def without(roster: Roster, name: str) -> Roster:
    return make_roster(
        2,
        roster.digest,
        sites={key: value for key, value in roster.sites.items() if key != name},
        coordinators={key: value for key, value in roster.coordinators.items() if key != name},
    )


def with_new_keys(name: str) -> Roster:
    member = Member(Identity.new().public, "2027-12-31")
    sites, coordinators = dict(ROSTER.sites), dict(ROSTER.coordinators)
    (sites if name in sites else coordinators)[name] = member
    return make_roster(2, ROSTER.digest, sites=sites, coordinators=coordinators)


LATE = (NOW - timedelta(seconds=1)).isoformat()
OLDER = replace(PLAN, versions=replace(PLAN.versions, torch="0.1"))
PLAIN = replace(PLAN, config=with_config("aggregator", value={"name": "plain"}).config)
EVERYBODY = with_config("engine", "minimum", value=3).config
ROUND_2 = {"round": 2, "task": "4" * 64}
REFUSED: dict[str, tuple[Envelope, SiteView, Reason]] = {
    "1 a notice instead of an order": (task(kind="notice"), VIEW, Reason.ENVELOPE_KIND),
    "1 another federation": (task(federation="others"), VIEW, Reason.ENVELOPE_FEDERATION),
    "1 an order by a site": (task(sender="south"), VIEW, Reason.ENVELOPE_SENDER),
    "1 an order by the hub": (task(sender="hub"), VIEW, Reason.ENVELOPE_SENDER),
    "1 a removed coordinator": (TASK, view(roster=without(ROSTER, "alice")), Reason.ENVELOPE_SENDER),
    "1 a coordinator whose time is over": (TASK, view(now=datetime(2028, 1, 1, tzinfo=UTC)), Reason.ROSTER_MEMBER),
    "1 an order to another site": (task(recipient="south"), VIEW, Reason.ENVELOPE_RECIPIENT),
    "1 an order of last month": (task(until=LATE), VIEW, Reason.ENVELOPE_EXPIRED),
    "2 a plan for a roster that was never accepted": (TASK, view(planned_roster=None), Reason.ROSTER_PLAN),
    "2 a plan for another roster": (*other(roster="0" * 64), Reason.ROSTER_PLAN),
    "2 this site was removed": (TASK, view(roster=without(ROSTER, "north")), Reason.ROSTER_MEMBER),
    "2 a site that was never a member": (*other(sites=("north", "south", "east")), Reason.ROSTER_MEMBER),
    "2 another site's keys were replaced": (TASK, view(roster=with_new_keys("south")), Reason.ROSTER_PLAN),
    "2 the coordinator's keys were replaced": (TASK, view(roster=with_new_keys("alice")), Reason.ROSTER_PLAN),
    "3 an unknown plan": (TASK, view(plan=None), Reason.PLAN_UNKNOWN),
    "3 another plan's digest": (task(plan="0" * 64), VIEW, Reason.PLAN_UNKNOWN),
    "3 a plan of another federation": (*other(federation="others"), Reason.PLAN_FEDERATION),
    "3 a plan without this site": (
        task(recipient="west", plan=replace(PLAN, sites=("north", "south")).digest),
        view(name="west", plan=replace(PLAN, sites=("north", "south"))),
        Reason.PLAN_SITES,
    ),
    "3 a plan of another coordinator": (task(sender="bob"), VIEW, Reason.PLAN_COORDINATOR),
    "3 another run": (task(run="stroke-2"), VIEW, Reason.PLAN_RUN),
    "3 a plan that is over": (*other(until="2026-11-26"), Reason.PLAN_UNTIL),
    "3 not approved": (TASK, view(standing=Standing(Reason.PLAN_NOT_APPROVED)), Reason.PLAN_NOT_APPROVED),
    "3 denied": (TASK, view(standing=Standing(Reason.PLAN_DENIED)), Reason.PLAN_DENIED),
    "3 revoked": (TASK, view(standing=Standing(Reason.PLAN_REVOKED)), Reason.PLAN_REVOKED),
    "3 the approval has expired": (TASK, view(standing=Standing(Reason.PLAN_EXPIRED)), Reason.PLAN_EXPIRED),
    "3 outside the study": (TASK, view(standing=Standing(Reason.STUDY_RANGE)), Reason.STUDY_RANGE),
    "3 over the study's totals": (TASK, view(standing=Standing(Reason.STUDY_TOTAL)), Reason.STUDY_TOTAL),
    "4 another version": (
        task(plan=OLDER.digest),
        view(plan=OLDER, versions=check_versions),
        Reason.VERSION_TORCH,
    ),
    "4 a changed plugin": (TASK, view(versions=refuse(Reason.PLUGIN_CHANGED)), Reason.PLUGIN_CHANGED),
    "4 code not approved": (TASK, view(here=Here("north", REGISTRY)), Reason.CODE_NOT_APPROVED),
    "4 code changed after approval": (TASK, view(intact=frozenset), Reason.CODE_CHANGED),
    "5 round 0": (task(round=0), VIEW, Reason.ROUND_FORM),
    "5 a phase that is no number": (task(phase="masks"), VIEW, Reason.ROUND_FORM),
    "5 a phase with another spelling": (task(phase="01"), VIEW, Reason.ROUND_FORM),
    "5 a round beyond the plan": (task(round=6), VIEW, Reason.ROUND_BEYOND),
    "5 a round twice with another model": (TASK, began((1, 1, 0)), Reason.ROUND_CHANGED),
    "5 another model in a later phase": (task(phase="2"), began((1, 1, 0), work="8" * 64), Reason.ROUND_CHANGED),
    "5 an evaluation of a second model": (task(phase="3", body=EVALUATE), evaluated("8" * 64), Reason.ROUND_CHANGED),
    "5 one model twice without sessions": (
        task(phase="2", plan=PLAIN.digest),
        replace(began((1, 1, 0)), plan=PLAIN),
        Reason.PHASE_ORDER,
    ),
    "5 a round that is over": (TASK, began((1, 1, 0), (2, 1, 0), work="2" * 64), Reason.ROUND_CHANGED),
    "5 a new attempt at a round that is over": (task(attempt=1), began((2, 1, 0)), Reason.ROUND_PAST),
    "5 a round left out": (
        task(round=3, plan=replace(PLAN, config=EVERYBODY).digest),
        replace(began((1, 1, 0)), plan=replace(PLAN, config=EVERYBODY)),
        Reason.ROUND_SKIPPED,
    ),
    "5 a later phase first": (task(phase="2"), VIEW, Reason.PHASE_ORDER),
    "5 an earlier phase again": (task(phase="2", attempt=1), began((1, 1, 0), (1, 3, 0)), Reason.PHASE_ORDER),
    "5 too many rounds": (TASK, view(usage=Usage(rounds_an_hour=10)), Reason.RATE_ROUNDS),
    "5 too many bytes": (TASK, view(usage=Usage(bytes_a_day=10**9)), Reason.RATE_BYTES),
    "5 a blob beyond the day": (task(blobs=(replace(BLOB, bytes=10**9),)), VIEW, Reason.RATE_BYTES),
    "5 too many runs": (TASK, view(usage=Usage(other_runs=2)), Reason.RUNS_AT_ONCE),
    "5 a full disk": (TASK, view(usage=Usage(free_bytes=10**6)), Reason.DISK_FULL),
    "6 a policy that was tightened": (
        TASK,
        view(policy=Policy(POLICY.rules.model_copy(update={"coordinators": ("bob",)}))),
        Reason.POLICY_COORDINATOR,
    ),
    "6 a budget that was spent by another plan": (
        TASK,
        view(policy=Policy(POLICY.rules.model_copy(update={"limits": POLICY.rules.limits.model_copy(
            update={"epsilon": 1.0})}))),
        Reason.POLICY_EPSILON,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_order_is_refused_with_its_reason(case: str) -> None:
    envelope, site, reason = REFUSED[case]
    with pytest.raises(Refused) as refused:
        check_task(envelope, site)
    assert refused.value.reason == reason


def test_an_order_that_breaks_no_rule_passes() -> None:
    assert check_task(TASK, VIEW) is PLAN


@pytest.mark.parametrize(
    ("envelope", "site"),
    [
        (task(), view(progress=RunProgress({(1, 1, 0): TASK.task}, {(1, "work"): "2" * 64}))),
        (task(phase="2", body=EVALUATE), began((1, 1, 0))),
        (task(phase="3", body=EVALUATE), evaluated("2" * 64)),
        (task(phase="2"), began((1, 1, 0))),
        (task(phase="5"), began((1, 1, 0), (1, 2, 0))),
        (task(**ROUND_2), began((1, 1, 0))),
        (task(round=4), began((1, 1, 0))),
        (task(phase="2", body={"ask": "train", "parts": ["message"]}), began((1, 1, 0))),
        (TASK, view(roster=without(ROSTER, "west"))),
        (TASK, view(roster=make_roster(2, ROSTER.digest, sites={**ROSTER.sites, "east": MEMBERS["bob"]}, coordinators={
            "alice": MEMBERS["alice"]}))),
    ],
    ids=["again", "sums", "sums again", "next phase", "session", "next round", "back", "message", "left", "joined"],
)  # fmt: skip
def test_repetitions_next_steps_and_changes_of_other_members_pass(envelope: Envelope, site: SiteView) -> None:
    assert check_task(envelope, site) is site.plan


def test_the_checks_are_made_in_order_and_the_first_failure_stops() -> None:
    broken = view(
        planned_roster=None,
        standing=Standing(Reason.PLAN_DENIED),
        versions=refuse(Reason.PLUGIN_CHANGED),
        usage=Usage(free_bytes=0),
        policy=Policy(),
    )
    mended: list[dict[str, Any]] = [
        {},
        {"planned_roster": ROSTER},
        {"standing": Standing(None)},
        {"versions": lambda versions: None},
        {"usage": Usage(), "policy": Policy(PolicyRules(limits=POLICY.rules.limits))},
    ]
    found = [reason_of(task(kind="notice"), broken)]
    for change in mended:
        broken = replace(broken, **change)
        found.append(reason_of(TASK, broken))
    assert [check.__name__ for check in CHECKS] == [
        "check_envelope",
        "check_roster",
        "check_plan",
        "check_installed",
        "check_schedule",
        "check_policy",
    ]
    assert found == [
        Reason.ENVELOPE_KIND,
        Reason.ROSTER_PLAN,
        Reason.PLAN_DENIED,
        Reason.PLUGIN_CHANGED,
        Reason.RATE_BYTES,
        Reason.POLICY_COORDINATOR,
    ]


CHANGES = dict(single_changes(parse(PLAN.to_json(), MOST_BYTES)))


@pytest.mark.parametrize("path", CHANGES)
def test_an_approved_plan_with_any_one_value_changed_is_refused(path: str, approved: Approvals) -> None:
    def arrives() -> None:
        plan = Plan.from_json(canonical(CHANGES[path]))
        check_task(task(plan=plan.digest), view(plan=plan, standing=approved.decision(plan, NOW)))

    with pytest.raises(Refused) as refused:
        arrives()
    field = path.partition(".")[0]
    assert refused.value.reason in BY_FIELD.get(field, {Reason.PLAN_FORM, Reason.PLAN_NOT_APPROVED})


BY_FIELD = {
    "federation": {Reason.PLAN_FEDERATION},
    "run": {Reason.PLAN_RUN},
    "coordinator": {Reason.ROSTER_MEMBER},
    "roster": {Reason.ROSTER_PLAN},
    "sites": {Reason.ROSTER_MEMBER},
    "until": {Reason.PLAN_NOT_APPROVED, Reason.PLAN_FORM},
}
"""Reasons of changes that an earlier check finds; all others change the digest, which was not approved."""


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Approvals:
    audit = AuditLog(tmp_path_factory.mktemp("site") / "audit.jsonl", NORTH)
    approvals = Approvals(audit, "hospitals", "north", NORTH.public.signing)
    approvals.decide(NORTH, PLAN, "approve", "because", now=NOW)
    assert check_task(TASK, view(standing=approvals.decision(PLAN, NOW))) is PLAN
    return approvals


def work(**changes: Any) -> Work:
    facts = {
        "round": 2,
        "params": {"params": np.zeros(10, np.float32)},
        "extra": {},
        "transforms": {},
        "local": scheduled_work(PLAN, 2),
        "layout": {"delta": 10},
    }
    return Work(**{**facts, **changes})


LOCAL = scheduled_work(PLAN, 2)
PARAMS = np.zeros(10, np.float32)
CONTENT: dict[str, tuple[Work, Reason]] = {
    "another round": (work(round=3), Reason.WORK_CHANGED),
    "more epochs": (work(local=replace(LOCAL, epochs=2)), Reason.WORK_CHANGED),
    "another rate": (work(local=replace(LOCAL, lr=LOCAL.lr * 2)), Reason.WORK_CHANGED),
    "batches of one row": (work(local=replace(LOCAL, batch_size=1)), Reason.WORK_CHANGED),
    "allowances of devices": (work(allowance=Allowance(np.zeros(1, int), np.zeros(1, int))), Reason.WORK_CHANGED),
    "another update": (work(layout={"delta": 11}), Reason.BODY_LAYOUT),
    "a longer model": (work(params={"params": np.zeros(100, np.float32)}), Reason.BODY_LAYOUT),
    "a model of two dimensions": (work(params={"params": np.zeros((2, 5), np.float32)}), Reason.BODY_LAYOUT),
    "one more vector": (work(extra={"c": PARAMS}), Reason.BODY_LAYOUT),
    "a transform's vector": (work(transforms={"clip": {"bound": PARAMS}}), Reason.BODY_LAYOUT),
    "no model": (work(params={}), Reason.BODY_LAYOUT),
    "another type": (work(params={"params": np.zeros(10, np.float64)}), Reason.BODY_TYPE),
    "integers": (work(params={"params": np.zeros(10, np.int32)}), Reason.BODY_TYPE),
    "not a number": (work(params={"params": np.full(10, np.nan, np.float32)}), Reason.BODY_NOT_FINITE),
    "infinity": (work(params={"params": np.full(10, np.inf, np.float32)}), Reason.BODY_NOT_FINITE),
}


@pytest.mark.parametrize("case", CONTENT)
def test_content_other_than_the_plans_is_refused(case: str) -> None:
    found, reason = CONTENT[case]
    with pytest.raises(Refused) as refused:
        check_content(PLAN, found, 2)
    assert refused.value.reason == reason


def test_the_content_of_the_plan_passes() -> None:
    check_content(PLAN, work(), 2)


def test_the_scheduled_rate_is_that_of_the_round() -> None:
    config = {**PLAN.config, "local": {**PLAN.config["local"], "schedule": "cosine", "min_lr": 0.0}}
    plan = replace(PLAN, config=config)
    rates = [scheduled_work(plan, number).lr for number in (1, 3, 5)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == PLAN.config["local"]["lr"]
    check_content(plan, work(local=scheduled_work(plan, 2)), 2)

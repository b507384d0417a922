"""Checks of an order at a site, in a fixed order. The first that fails refuses it, with its reason.

1 envelope · 2 roster · 3 plan and approval · 4 versions and code · 5 schedule · 6 policy · 7 content · 8 journal.
`check_task` makes the first six; the order's blobs are decrypted only after them. `check_content` is the seventh. The
eighth is the journal's claim (`site/journal.py`), after which training starts. All are functions of values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flctl import arrays
from flctl.config.config import Config
from flctl.federation.content import MESSAGE
from flctl.federation.identity.roster import Roster
from flctl.federation.plan.moments import passed
from flctl.federation.plan.plan import Plan, Versions
from flctl.federation.plan.sizes import bytes_up
from flctl.federation.plan.vectors import named_vectors
from flctl.federation.plan.versions import check_versions
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.approvals import Standing
from flctl.federation.site.policy import GB, Here, Policy, code_of
from flctl.federation.transport.envelope import Envelope, expired
from flctl.server.lr_schedule import scheduled
from flctl.types import LocalWork, Work

__all__ = [
    "CHECKS",
    "RunProgress",
    "SiteView",
    "Usage",
    "check_content",
    "check_envelope",
    "check_plan",
    "check_roster",
    "check_schedule",
    "check_task",
    "scheduled_work",
]

SPARE_BYTES = 100 << 20
"""Bytes of the disk that stay free."""


@dataclass(frozen=True)
class RunProgress:
    """The steps of one run that this site has begun: (round, phase, attempt) -> task id. `working`: the SHA-256 of the
    work of each round, by the name of its part: that of training and that of each kind of sums."""

    tasks: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    working: Mapping[tuple[int, str], str] = field(default_factory=dict)

    @property
    def newest_round(self) -> int:
        """The last round in which a step was begun; 0 before the first."""
        return max((place[0] for place in self.tasks), default=0)

    def last_phase(self, round_number: int) -> int:
        """The last phase of a round that was begun; 0 before its first."""
        return max((place[1] for place in self.tasks if place[0] == round_number), default=0)


@dataclass(frozen=True)
class Usage:
    """Use of this site by all runs: rounds begun in the last hour, bytes moved in the last day, other runs in
    progress; and the free bytes of the disk."""

    rounds_an_hour: int = 0
    bytes_a_day: int = 0
    other_runs: int = 0
    free_bytes: int = 1 << 62


@dataclass(frozen=True)
class SiteView:
    """A site as its checks see it.

    `plan` is the plan of the order's run, None if it is unknown, and `standing` the decision about it. `roster` is the
    newest accepted roster, `planned_roster` the accepted one with the plan's digest, None if it was never accepted.
    `here` is the site as its policy sees it. `intact` returns the digests of approved code whose bytes are still those
    that were approved.
    """

    name: str
    now: datetime
    roster: Roster
    planned_roster: Roster | None
    plan: Plan | None
    standing: Standing
    policy: Policy
    here: Here
    progress: RunProgress = RunProgress()
    usage: Usage = Usage()
    versions: Callable[[Versions], None] = check_versions
    intact: Callable[[], frozenset[str]] = frozenset


def check_task(envelope: Envelope, view: SiteView) -> Plan:
    """Makes checks 1 to 6 of an order and returns its plan. Raises Refused with the first reason; nothing of the order
    has been decrypted then."""
    for check in CHECKS:
        check(envelope, view)
    return _plan(view)


def check_envelope(envelope: Envelope, view: SiteView) -> None:
    """Check 1: an order of a coordinator of this federation to this site, in time. Form and signature were checked when
    it was read."""
    if envelope.kind != "task":
        raise Refused(Reason.ENVELOPE_KIND)
    if envelope.federation != view.roster.federation:
        raise Refused(Reason.ENVELOPE_FEDERATION)
    coordinator = view.roster.coordinators.get(envelope.sender)
    if coordinator is None:
        raise Refused(Reason.ENVELOPE_SENDER)
    if coordinator.expired(view.now.date().isoformat()):
        raise Refused(Reason.ROSTER_MEMBER)
    if envelope.recipient != view.name:
        raise Refused(Reason.ENVELOPE_RECIPIENT)
    if expired(envelope.until, view.now):
        raise Refused(Reason.ENVELOPE_EXPIRED)


def check_roster(envelope: Envelope, view: SiteView) -> None:
    """Check 2: the plan was made with a roster that was accepted here, and no member's keys have changed since.

    Sites may have joined or left meanwhile, so that other sites do not stop a run.
    """
    plan, then, newest = _plan(view), view.planned_roster, view.roster
    if then is None or then.digest != plan.roster or then.version > newest.version:
        raise Refused(Reason.ROSTER_PLAN)
    if plan.coordinator not in then.coordinators or any(site not in then.sites for site in plan.sites):
        raise Refused(Reason.ROSTER_MEMBER)
    if view.name not in newest.sites or plan.coordinator not in newest.coordinators:
        raise Refused(Reason.ROSTER_MEMBER)
    pairs = [(then.coordinators[plan.coordinator], newest.coordinators[plan.coordinator])]
    pairs += [(then.sites[site], newest.sites[site]) for site in plan.sites if site in newest.sites]
    if any(before.identity != after.identity for before, after in pairs):
        raise Refused(Reason.ROSTER_PLAN)


def check_plan(envelope: Envelope, view: SiteView) -> None:
    """Check 3: the order belongs to a plan of this site that was approved here, and the approval still holds."""
    plan = _plan(view)
    if envelope.plan != plan.digest:
        raise Refused(Reason.PLAN_UNKNOWN)
    if plan.federation != view.roster.federation:
        raise Refused(Reason.PLAN_FEDERATION)
    plan.site_index(view.name)
    if plan.coordinator != envelope.sender:
        raise Refused(Reason.PLAN_COORDINATOR)
    if plan.run != envelope.run:
        raise Refused(Reason.PLAN_RUN)
    if passed(plan.until, view.now):
        raise Refused(Reason.PLAN_UNTIL)
    view.standing.require()


def check_installed(envelope: Envelope, view: SiteView) -> None:
    """Check 4: versions and plugin files are the plan's, and its code is approved and unchanged."""
    plan = _plan(view)
    view.versions(plan.versions)
    code = code_of(plan)
    if not code <= view.here.approved:
        raise Refused(Reason.CODE_NOT_APPROVED)
    if code and not code <= view.intact():
        raise Refused(Reason.CODE_CHANGED)


def check_schedule(envelope: Envelope, view: SiteView) -> None:
    """Check 5: the step is the next one or an identical repetition, and rates, bytes and disk allow it."""
    plan, progress = _plan(view), view.progress
    place = _place(envelope)
    if envelope.round > plan.rounds:
        raise Refused(Reason.ROUND_BEYOND)
    known = progress.tasks.get(place)
    if known is not None:
        if known != envelope.task:
            raise Refused(Reason.ROUND_CHANGED)
        return
    _check_order(place, plan, progress)
    _check_same_work(envelope, view)
    _check_usage(envelope, view, begins=envelope.round > progress.newest_round)


def check_policy(envelope: Envelope, view: SiteView) -> None:
    """Check 6: the policy, which may have been tightened since the approval, still allows the plan."""
    view.policy.require(_plan(view), view.here)


CHECKS = (check_envelope, check_roster, check_plan, check_installed, check_schedule, check_policy)
"""Checks 1 to 6, in order."""


def scheduled_work(plan: Plan, round_number: int) -> LocalWork:
    """Returns the local training that a plan's schedule gives for a round."""
    return scheduled(Config.model_validate(plan.config).local, plan.rounds, round_number)


def check_content(plan: Plan, work: Work, round_number: int) -> None:
    """Check 7: a round's work is what the plan says: its round, local training, layouts, number types, and finite
    numbers. Raises Refused."""
    if work.round != round_number or work.allowance is not None:
        raise Refused(Reason.WORK_CHANGED)
    if work.local != scheduled_work(plan, round_number):
        raise Refused(Reason.WORK_CHANGED)
    if dict(work.layout) != dict(plan.derived.layout):
        raise Refused(Reason.BODY_LAYOUT)
    sent = named_vectors(work.params, work.extra, work.transforms)
    if {name: (vector.shape) for name, vector in sent.items()} != {
        name: (length,) for name, length in plan.derived.broadcast.items()
    }:
        raise Refused(Reason.BODY_LAYOUT)
    if {name: vector.dtype.newbyteorder("<").str for name, vector in sent.items()} != dict(plan.derived.types):
        raise Refused(Reason.BODY_TYPE)
    if not arrays.is_finite(sent):
        raise Refused(Reason.BODY_NOT_FINITE)


def _plan(view: SiteView) -> Plan:
    if view.plan is None:
        raise Refused(Reason.PLAN_UNKNOWN)
    return view.plan


def _place(envelope: Envelope) -> tuple[int, int, int]:
    phase = envelope.phase
    if not (phase.isascii() and phase.isdecimal() and len(phase) <= 6):
        raise Refused(Reason.ROUND_FORM)
    if envelope.round < 1 or int(phase) < 1 or phase != str(int(phase)):
        raise Refused(Reason.ROUND_FORM)
    return envelope.round, int(phase), envelope.attempt


def _check_order(place: tuple[int, int, int], plan: Plan, progress: RunProgress) -> None:
    round_number, phase, _ = place
    if round_number < progress.newest_round:
        raise Refused(Reason.ROUND_PAST)
    if round_number > progress.newest_round + 1 and _asks_everybody(plan):
        raise Refused(Reason.ROUND_SKIPPED)
    last = progress.last_phase(round_number)
    # A phase may be missing between two: a session that failed is followed by another without some of its clients.
    if phase <= last or (last == 0 and phase != 1):
        raise Refused(Reason.PHASE_ORDER)


def _asks_everybody(plan: Plan) -> bool:
    """True if each round needs all sites: none is left out of a cohort, or because it is away."""
    engine, sites = plan.config.get("engine", {}), len(plan.sites)
    return plan.derived.cohort.get("expected") == sites and engine.get("minimum", 1) >= sites


def _check_same_work(envelope: Envelope, view: SiteView) -> None:
    """Two answers to two models of one round, with the same batches or noise, could be subtracted; evaluations of many
    models would tell the rows one by one. Under an aggregator without sessions, a second answer to one model would have
    fresh noise, and the mean of many has none."""
    parts = envelope.body.get("parts")
    if not isinstance(parts, list):
        return
    found = dict(zip(map(str, parts), (ref.plaintext for ref in envelope.blobs), strict=False))
    for name, digest in found.items():
        known = view.progress.working.get((envelope.round, name))
        if name == MESSAGE or known is None:
            continue
        if known != digest:
            raise Refused(Reason.ROUND_CHANGED)
        if not _has_sessions(view):
            raise Refused(Reason.PHASE_ORDER)


def _has_sessions(view: SiteView) -> bool:
    """True if a round may have several sessions of its aggregator, each of which sends the work again."""
    name = _plan(view).config.get("aggregator", {}).get("name")
    offered = view.here.catalogue.offers("aggregator")
    return name in offered and getattr(offered[name].component, "answers_once", False) is True


def _check_usage(envelope: Envelope, view: SiteView, *, begins: bool) -> None:
    limits, usage, plan = view.policy.rules.limits, view.usage, _plan(view)
    moved = sum(ref.bytes for ref in envelope.blobs) + bytes_up(plan)
    if begins and limits.rounds_an_hour is not None and usage.rounds_an_hour >= limits.rounds_an_hour:
        raise Refused(Reason.RATE_ROUNDS)
    if usage.bytes_a_day + moved > (limits.gb_a_day or 0) * GB:
        raise Refused(Reason.RATE_BYTES)
    if usage.other_runs >= (limits.runs_at_once or 0):
        raise Refused(Reason.RUNS_AT_ONCE)
    if usage.free_bytes < 2 * moved + SPARE_BYTES:
        raise Refused(Reason.DISK_FULL)

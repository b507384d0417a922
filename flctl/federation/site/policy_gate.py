"""The gate of a real site: its policy, its approvals, its checks of each order, and its record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from flctl import arrays
from flctl.errors import FlctlError
from flctl.federation.identity.canonical import digest
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.roster import Roster
from flctl.federation.member import FederationMember
from flctl.federation.plan.plan import Plan, Versions
from flctl.federation.plan.versions import check_versions
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.admission import approve_matching
from flctl.federation.site.approvals import Approvals
from flctl.federation.site.audit import AuditLog
from flctl.federation.site.checks import RunProgress, SiteView, Usage, check_content, check_task, scheduled_work
from flctl.federation.site.journal import Journal, SiteStep, StepState
from flctl.federation.site.policy import Here, Policy, epsilon_of
from flctl.federation.site.receipts import AuditReceipts
from flctl.federation.site.user_code import CodeStore
from flctl.federation.transport.envelope import Envelope
from flctl.types import ROW_SUMS, Ask, Work

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["PolicyGate"]

HOUR, DAY = 3600.0, 86400.0
VERIFIED_SECONDS = 60.0
MOST_REFUSALS = 10_000
"""Refusals that are remembered, so that each is recorded once."""
FIGURES = {"count": ("examples",), "loss": ("loss",)}
"""Figures of the policy's `share.metrics`, and the metrics of a reply that they stand for."""
IN_PROGRESS: tuple[StepState, ...] = ("claimed", "replied", "uploaded")


@dataclass(frozen=True)
class PolicyGate:
    """Asks the policy, the approvals and the record in a site's home. The policy is read anew each time: it may have
    been tightened meanwhile."""

    home: SiteHome
    member: FederationMember
    catalogue: Catalogue
    journal: Journal
    audit: AuditLog
    approvals: Approvals
    _verified: dict[str, float] = field(default_factory=dict)
    _refusals: set[tuple[str, ...]] = field(default_factory=set)

    @classmethod
    def open(cls, home: SiteHome, member: FederationMember, catalogue: Catalogue, journal: Journal) -> Self:
        """The gate of a home. Raises ConfigError for a policy with problems."""
        policy, roster = Policy.open(home), member.roster
        members = {**roster.coordinators, **roster.sites}
        reviewers = {name: members[name].identity.signing for name in policy.rules.reviewers if name in members}
        audit = AuditLog(home.audit, member.identity)
        key = member.identity.public.signing
        approvals = Approvals(audit, member.membership.federation, member.name, key, reviewers)
        return cls(home, member, catalogue, journal, audit, approvals)

    def asked(self, plan: Plan) -> None:
        self.approvals.keep(plan)
        approve_matching(self.approvals, self.member.identity, Policy.open(self.home), plan, self._here(plan))

    def decision(self, plan: Plan) -> Mapping[str, Any] | None:
        standing = self.approvals.decision(plan)
        if standing.decided is None or standing.reason == Reason.STUDY_TOTAL:  # a person has to decide
            return None
        statement = standing.decided.statement
        return {"decision": statement.decision, "reason": statement.reason, "until": statement.until}

    def check(self, envelope: Envelope, plan: Plan, ask: Ask) -> None:
        view = self._view(plan)
        check_task(envelope, view)
        if ask not in plan.ask:
            raise Refused(Reason.POLICY_ASK)
        self.approvals.charge(plan, view.standing, epsilon_of(plan))
        if ask != "train":
            self._check_floor(plan, ask)

    def check_work(self, plan: Plan, work: Work) -> None:
        if work.ask == "train":
            check_content(plan, work, work.round)
        else:
            check_sums(plan, work)

    def still_approved(self, plan: Plan) -> None:
        self.approvals.decision(plan).require()

    def shared(self, ask: Ask, metrics: Mapping[str, float]) -> dict[str, float]:
        figures = Policy.open(self.home).rules.share.metrics
        if ask != "train":
            return dict(metrics) if "clients" in figures else {}
        allowed = {name for figure in figures for name in FIGURES.get(figure, ())}
        return {name: value for name, value in metrics.items() if name in allowed}

    def seconds_a_round(self) -> float | None:
        minutes = Policy.open(self.home).rules.limits.minutes_a_round
        return None if minutes is None else 60.0 * minutes

    def head(self) -> Mapping[str, Any]:
        return AuditReceipts(self.audit).head()

    def countersigned(self, head: Mapping[str, Any], envelope: bytes, receipt: bytes) -> None:
        receipts = AuditReceipts(self.audit)
        if receipts.is_from(self.member.roster.hub.signing, head, envelope, receipt):
            receipts.keep(head, envelope, receipt)
        else:  # kept among the receipts, it would make the whole record look changed
            self.audit.append("false-receipt", {**head, "receipt": receipt.decode()})

    def record(self, event: str, **facts: Any) -> None:
        if event == "refused":  # an order that is replayed is recorded once: replays would fill the disk
            refusal = tuple(str(facts.get(name)) for name in ("run", "task", "reason"))
            if refusal in self._refusals:
                return
            if len(self._refusals) >= MOST_REFUSALS:
                self._refusals.clear()
            self._refusals.add(refusal)
        self.audit.append(event, facts)

    def _check_floor(self, plan: Plan, ask: Ask) -> None:
        """Raises Refused (`statistics-floor`) for sums over fewer rows than the policy's floor, or without a floor."""
        floor = Policy.open(self.home).rules.limits.min_rows
        train, test = plan.data.rows[plan.site_index(self.member.name)]
        if floor is None or (test if ask == "evaluate" else train) < floor:
            raise Refused(Reason.STATISTICS_FLOOR)

    def _view(self, plan: Plan) -> SiteView:
        return SiteView(
            name=self.member.name,
            now=datetime.now(UTC),
            roster=self.member.roster,
            planned_roster=self._planned_roster(plan),
            plan=plan,
            standing=self.approvals.decision(plan),
            policy=Policy.open(self.home),
            here=self._here(plan),
            progress=_progress(self.journal.of_run(plan.run)),
            usage=self._usage(plan),
            versions=self._check_versions,
            intact=CodeStore(self.home.quarantine, self.home.approved).intact,
        )

    def _here(self, plan: Plan) -> Here:
        return Here(
            name=self.member.name,
            catalogue=self.catalogue,
            approved=self.approvals.code(),
            earlier=self.approvals.approved_before(plan),
            spent=self.approvals.spent(plan),
        )

    def _check_versions(self, planned: Versions) -> None:
        """As `check_versions`, which reads every installed file of flctl and the plan's plugins, once a minute. The
        code that trains is loaded when the worker starts, and stays."""
        key = digest(asdict(planned))
        if time.monotonic() - self._verified.get(key, -VERIFIED_SECONDS) >= VERIFIED_SECONDS:
            check_versions(planned)
            self._verified[key] = time.monotonic()

    def _planned_roster(self, plan: Plan) -> Roster | None:
        try:
            return self.member.keeper.of_digest(plan.roster)
        except FlctlError:
            return None

    def _usage(self, plan: Plan) -> Usage:
        now = time.time()
        begun = self.journal.since(now - HOUR)
        # A run that was given up is never settled: it holds its place for an hour, not for ever.
        active = {step.run for step in begun if step.state in IN_PROGRESS}
        return Usage(
            rounds_an_hour=len({(step.run, step.round) for step in begun}),
            bytes_a_day=self.journal.bytes_since(now - DAY),
            other_runs=len(active - {plan.run}),
            free_bytes=shutil.disk_usage(self.home.path).free,
        )


def check_sums(plan: Plan, work: Work) -> None:
    """Checks the work of an evaluation or of statistics: the plan's model or none, local training as scheduled, finite
    numbers. Raises Refused."""
    if work.allowance is not None or work.extra or work.transforms or work.local != scheduled_work(plan, work.round):
        raise Refused(Reason.WORK_CHANGED)
    model = {name: length for name, length in plan.derived.broadcast.items() if ":" not in name}
    found = {name: vector.size for name, vector in work.params.items()}
    if found != (model if work.ask == "evaluate" else {}) or work.layout.keys() != {ROW_SUMS[work.ask]}:
        raise Refused(Reason.BODY_LAYOUT)
    if any(plan.derived.types.get(name) != vector.dtype.newbyteorder("<").str for name, vector in work.params.items()):
        raise Refused(Reason.BODY_TYPE)
    if not arrays.is_finite(work.params):
        raise Refused(Reason.BODY_NOT_FINITE)


def _progress(steps: list[SiteStep]) -> RunProgress:
    """The steps of a run that this site has begun, and the work of each round."""
    return RunProgress(
        tasks={(step.round, int(step.phase), step.attempt): step.task for step in steps},
        working={
            (step.round, name): digest for step in steps for name, _, digest in [step.work.partition(" ")] if name
        },
    )

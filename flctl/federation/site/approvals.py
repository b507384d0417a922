"""Decisions of a site about plans: signed statements in its audit log, default deny.

The last statement about a plan counts. A statement may approve a study: its later plans inside the ranges pass and are
charged to the totals. Statements of reviewers whom the policy names count as the site's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flctl.errors import ConfigError, IntegrityError
from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import Signed, sign, verify
from flctl.federation.plan.moments import moment, now_text, passed
from flctl.federation.plan.plan import MOST_BYTES, Plan
from flctl.federation.plan.studies import frame
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.audit import AuditLog
from flctl.federation.site.policy import epsilon_of

__all__ = ["APPROVAL_PURPOSE", "Approvals", "Decided", "Standing", "Statement", "Totals"]

APPROVAL_PURPOSE = "flctl/approval/1"
DECIDED, CHARGED, PLANNED = "decided", "charged", "planned"
"""Kinds of lines in the audit log: a statement, a plan charged to a study or budget, a plan that arrived."""
MOST_REASON = 2000
Verb = Literal["approve", "deny", "revoke"]
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True)
class Totals:
    """Totals of a study: the number of its plans, their rounds together, and their epsilon together."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    runs: int
    rounds: int
    epsilon: float | None = None


@dataclass(frozen=True)
class Statement:
    """A decision as it is signed: about which plan, by which site, until when, and for what reason.

    `study` is the digest of a study's frame, with its `totals`; `code` are the SHA-256 of the code that was read and
    approved with the plan. A reviewer's statement has the reviewer's name as its `site`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    federation: str
    site: str
    run: str
    plan: str
    decision: Verb
    until: str
    reason: str
    at: str
    code: tuple[str, ...] = ()
    study: str = ""
    totals: Totals | None = None

    @classmethod
    def read(cls, signed: Signed) -> Statement:
        """Raises IntegrityError for a signed text that is no decision."""
        try:
            found: Statement = TypeAdapter(Statement).validate_json(canonical(signed.statement))
            moment(found.until)
        except (ValidationError, ValueError, TypeError) as error:
            raise IntegrityError("a signed statement is not a decision about a plan") from error
        return found


@dataclass(frozen=True)
class Decided:
    """A statement of the audit log: its signer's name, its digest and its place in the log."""

    statement: Statement
    by: str
    digest: str
    line: int


@dataclass(frozen=True)
class Standing:
    """A plan's standing at this site: the reason to refuse it, or None with the statement that approves it.

    `study` is the digest of the study's approval that the plan would be charged to; empty if it was approved itself.
    """

    reason: Reason | None
    decided: Decided | None = None
    study: str = ""

    @property
    def approved(self) -> bool:
        """True if the plan may run."""
        return self.reason is None

    def require(self) -> None:
        """Raises Refused with the reason if the plan may not run."""
        if self.reason is not None:
            raise Refused(self.reason)


class Approvals:
    """The decisions of the site `site` of `federation`, kept in its audit log.

    `reviewers` are names and Ed25519 keys of those whose approvals count as the site's own. Each statement is
    verified with the key of its signer.
    """

    def __init__(
        self, audit: AuditLog, federation: str, site: str, key: bytes, reviewers: Mapping[str, bytes] | None = None
    ) -> None:
        self._audit, self._federation, self._site = audit, federation, site
        self._keys = {site: key, **(reviewers or {})}
        self._verified = False
        self._known: dict[int, Decided] = {}

    def decide(
        self,
        identity: Identity,
        plan: Plan,
        verb: Verb,
        reason: str,
        *,
        until: str | None = None,
        code: Iterable[str] = (),
        totals: Totals | None = None,
        now: datetime | None = None,
    ) -> bytes:
        """Signs a decision about a plan, records it, and returns the signed text. Raises ConfigError for an empty
        reason, a date that has passed, or totals for a plan that belongs to no study."""
        at = now or datetime.now(UTC)
        until = until or plan.until
        _check_reason(reason)
        if verb == "approve":
            _check_approval(plan, until, totals, at)
        statement = Statement(
            federation=plan.federation,
            site=self._site,
            run=plan.run,
            plan=plan.digest,
            decision=verb,
            until=until,
            reason=reason,
            at=now_text(at),
            code=tuple(sorted(code)),
            study=frame(plan.tree()) if totals else "",
            totals=totals,
        )
        text = sign(identity, APPROVAL_PURPOSE, asdict(statement))
        self._audit.append(DECIDED, {"by": self._site, "run": plan.run, "signed": text.decode()}, at)
        return text

    def add(self, text: bytes, reviewer: str, now: datetime | None = None) -> Statement:
        """Records a reviewer's signed statement. Raises Refused for one whom the policy does not name, IntegrityError
        for a statement that the reviewer did not sign."""
        if reviewer not in self._keys or reviewer == self._site:
            raise Refused(Reason.PLAN_NOT_APPROVED, "The policy names no such reviewer.")
        statement = Statement.read(verify(text, APPROVAL_PURPOSE, self._keys[reviewer], MOST_BYTES))
        if (statement.federation, statement.site) != (self._federation, reviewer):
            raise Refused(Reason.PLAN_NOT_APPROVED, "The statement is from another federation or about another site.")
        self._audit.append(DECIDED, {"by": reviewer, "run": statement.run, "signed": text.decode()}, now)
        return statement

    def decision(self, plan: Plan | str, now: datetime | None = None) -> Standing:
        """Returns the standing of a plan, or of a plan's digest. Raises IntegrityError if the audit log was changed."""
        now = now or datetime.now(UTC)
        digest = plan if isinstance(plan, str) else plan.digest
        own = [one for one in self.all() if one.statement.plan == digest]
        if own:
            return _standing(own, self._site, now)
        return Standing(Reason.PLAN_NOT_APPROVED) if isinstance(plan, str) else self._by_study(plan, now)

    def charge(self, plan: Plan, decision: Standing, epsilon: float | None, now: datetime | None = None) -> None:
        """Records, once for each plan, that it runs: a charge to its study's totals and to the site's budget."""
        decision.require()
        if any(line.facts["plan"] == plan.digest for line in self._lines(CHARGED)):
            return
        facts = {"plan": plan.digest, "run": plan.run, "rounds": plan.rounds, "study": decision.study}
        # Canonical JSON has no infinity, and a plan without a target has no other bound.
        shown = "inf" if epsilon == math.inf else epsilon if epsilon is not None else 0.0
        self._audit.append(CHARGED, {**facts, "epsilon": shown}, now)

    def spent(self, besides: Plan) -> float:
        """Returns the epsilon charged to the site's budget by all other plans."""
        return math.fsum(float(line["epsilon"]) for line in self._charges() if line["plan"] != besides.digest)

    def plans(self) -> dict[str, Plan]:
        """Returns all plans that arrived, by digest, in order of arrival."""
        texts = [str(line.facts["text"]).encode() for line in self._lines(PLANNED)]
        found = [Plan.from_json(text) for text in texts]
        return {plan.digest: plan for plan in found}

    def keep(self, plan: Plan, now: datetime | None = None) -> None:
        """Records a plan that arrived, once, so that it can be reviewed and compared with later ones."""
        if plan.digest not in self.plans():
            self._audit.append(PLANNED, {"run": plan.run, "text": plan.to_json().decode()}, now)

    def approved_before(self, besides: Plan) -> tuple[Plan, ...]:
        """Returns the plans that were ever approved here, but for `besides`."""
        approved = {one.statement.plan for one in self.all() if one.statement.decision == "approve"}
        approved |= {str(line["plan"]) for line in self._charges()}
        return tuple(plan for digest, plan in self.plans().items() if digest in approved and digest != besides.digest)

    def code(self, now: datetime | None = None) -> frozenset[str]:
        """Returns the SHA-256 of code in approvals that hold: not revoked, not expired."""
        now = now or datetime.now(UTC)
        plans = {one.statement.plan for one in self.all()}
        holding = [self.decision(plan, now).decided for plan in plans if self.decision(plan, now).approved]
        return frozenset(digest for one in holding if one is not None for digest in one.statement.code)

    def all(self) -> list[Decided]:
        """Returns all decisions in order. Raises IntegrityError for one that its signer did not sign."""
        found = []
        for line in self._lines(DECIDED):
            by = str(line.facts["by"])
            if by not in self._keys:
                continue  # a former reviewer, whose statements count no longer
            if line.number not in self._known:
                signed = verify(str(line.facts["signed"]).encode(), APPROVAL_PURPOSE, self._keys[by], MOST_BYTES)
                self._known[line.number] = Decided(Statement.read(signed), by, signed.digest, line.number)
            found.append(self._known[line.number])
        return found

    def _by_study(self, plan: Plan, now: datetime) -> Standing:
        """Returns the standing of a plan by the approval of its study."""
        if plan.study is None:
            return Standing(Reason.PLAN_NOT_APPROVED)
        of_study = [one for one in self.all() if one.statement.study == frame(plan.tree())]
        approvals = [one for one in of_study if one.statement.totals is not None]
        if not approvals:
            return Standing(Reason.PLAN_NOT_APPROVED)
        last = approvals[-1]
        standing = _standing([one for one in self.all() if one.statement.plan == last.statement.plan], self._site, now)
        if not standing.approved:
            return standing
        if not plan.study.holds(plan.config):
            return Standing(Reason.STUDY_RANGE)
        reason = Reason.STUDY_TOTAL if self._exceeds(plan, last) else None
        return Standing(reason, last, last.digest)

    def _exceeds(self, plan: Plan, approval: Decided) -> bool:
        """True if a plan would exceed its study's totals. The plan that the study was approved with counts too."""
        totals = approval.statement.totals or Totals(0, 0)
        charged = [
            line
            for line in self._charges()
            if plan.digest != line["plan"]
            and (line["study"] == approval.digest or line["plan"] == approval.statement.plan)
        ]
        runs = len(charged) + 1
        rounds = sum(int(line["rounds"]) for line in charged) + plan.rounds
        epsilon = math.fsum([*(float(line["epsilon"]) for line in charged), epsilon_of(plan) or 0.0])
        over = totals.epsilon is not None and epsilon > totals.epsilon
        return runs > totals.runs or rounds > totals.rounds or over

    def _charges(self) -> list[Mapping[str, Any]]:
        return [line.facts for line in self._lines(CHARGED)]

    def _lines(self, kind: str) -> Iterator[Any]:
        if not self._verified:
            self._audit.verify(self._keys[self._site])  # a cut log could have lost a revocation
            self._verified = True
        return (line for line in self._audit.lines() if line.kind == kind)


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > MOST_REASON or not reason.isprintable():
        raise ConfigError("a decision needs a reason, on one line", hint="For example --reason 'ethics vote 12/26'.")


def _check_approval(plan: Plan, until: str, totals: Totals | None, at: datetime) -> None:
    try:
        over = passed(until, at)
    except ValueError as error:
        raise ConfigError(f"--until: {error}") from error
    if over:
        raise ConfigError(f"--until {until} has passed", hint="Choose a later date.")
    if totals is not None and plan.study is None:
        raise ConfigError(
            f"the plan of {plan.run} belongs to no study, so it has no totals",
            hint="Approve it without --runs, --rounds and --epsilon.",
        )


def _standing(decisions: list[Decided], site: str, now: datetime) -> Standing:
    """Returns the standing of one plan: the site's own last word, else that of the reviewers, any denial first."""
    own = [one for one in decisions if one.by == site]
    last = own[-1:] or list({one.by: one for one in decisions}.values())
    for verb, reason in (("revoke", Reason.PLAN_REVOKED), ("deny", Reason.PLAN_DENIED)):
        for one in last:
            if one.statement.decision == verb:
                return Standing(reason, one)
    holding = [one for one in last if not passed(one.statement.until, now)]
    return Standing(None, holding[-1]) if holding else Standing(Reason.PLAN_EXPIRED, last[-1])

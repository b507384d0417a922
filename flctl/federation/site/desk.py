"""A data owner's desk: policy, decisions, record and code in a site's home, opened together for the commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from flctl.component import Catalogue
from flctl.errors import ConfigError
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Roster
from flctl.federation.plan.plan import Plan
from flctl.federation.site.approvals import Approvals
from flctl.federation.site.audit import AuditLog
from flctl.federation.site.policy import Here, Policy
from flctl.federation.site.run_files import SiteRun
from flctl.federation.site.user_code import CodeStore

__all__ = ["Desk", "reviewer_keys"]


@dataclass(frozen=True)
class Desk:
    """The owner's side of a site's home."""

    home: SiteHome
    membership: Membership
    identity: Identity
    catalogue: Catalogue

    @classmethod
    def open(cls, home: SiteHome, catalogue: Catalogue) -> Self:
        """Opens the home. Raises ConfigError if it is not a member of a federation."""
        return cls(home, Membership.open(home), Identity.open(home.identity), catalogue)

    @cached_property
    def policy(self) -> Policy:
        """The policy. Raises ConfigError with every problem of its file."""
        return Policy.open(self.home)

    @cached_property
    def audit(self) -> AuditLog:
        """The record."""
        return AuditLog(self.home.audit, self.identity)

    @cached_property
    def roster(self) -> Roster | None:
        """The newest accepted roster; None before the first."""
        try:
            return self.membership.keeper(self.home).newest()
        except ConfigError:
            return None

    @cached_property
    def approvals(self) -> Approvals:
        """The decisions."""
        keys = reviewer_keys(self.policy, self.roster)
        name, key = self.membership.name, self.identity.public.signing
        return Approvals(self.audit, self.membership.federation, name, key, keys)

    @cached_property
    def code(self) -> CodeStore:
        """Code that arrived, and code that was approved."""
        return CodeStore(self.home.quarantine, self.home.approved)

    def plans(self) -> dict[str, Plan]:
        """Returns the plans that were asked, by run."""
        return {run.name: run.plan() for run in SiteRun.all(self.home)}

    def plan(self, run: str | None) -> Plan:
        """Returns a run's plan; without a name, the only one that waits for a decision. Raises ConfigError for
        others."""
        plans = self.plans()
        if run is not None:
            if run not in plans:
                raise ConfigError(f"no coordinator has asked for a run '{run}'", hint=_known(plans))
            return plans[run]
        waiting = [one for one in plans.values() if self.approvals.decision(one).decided is None]
        if len(waiting) != 1:
            found = "no plan waits" if not waiting else f"{len(waiting)} plans wait"
            raise ConfigError(f"{found} for a decision", hint=_known(plans))
        return waiting[0]

    def here(self, plan: Plan) -> Here:
        """Returns the site as its policy sees it beside a plan."""
        return Here(
            name=self.membership.name,
            catalogue=self.catalogue,
            approved=self.approvals.code(),
            earlier=self.approvals.approved_before(plan),
            spent=self.approvals.spent(plan),
        )


def reviewer_keys(policy: Policy, roster: Roster | None) -> Mapping[str, bytes]:
    """Returns the Ed25519 keys of the reviewers whom the policy names, as far as the roster lists them."""
    members = {**roster.coordinators, **roster.sites} if roster else {}
    return {name: members[name].identity.signing for name in policy.rules.reviewers if name in members}


def _known(plans: Mapping[str, Plan]) -> str:
    return f"Name one of: {', '.join(plans)}." if plans else "A coordinator's plan arrives with: flctl site serve"

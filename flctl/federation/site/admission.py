"""Approvals that a site's policy gives by itself: `approve: matching`."""

from __future__ import annotations

from datetime import UTC, datetime

from flctl.federation.identity.keys import Identity
from flctl.federation.plan.moments import passed
from flctl.federation.plan.plan import Plan
from flctl.federation.site.approvals import Approvals
from flctl.federation.site.policy import Here, Policy, code_of

__all__ = ["MATCHING", "approve_matching"]

MATCHING = "approved by the rules of policy.yaml (approve: matching)"


def approve_matching(
    approvals: Approvals, identity: Identity, policy: Policy, plan: Plan, here: Here, now: datetime | None = None
) -> bool:
    """Approves a plan that arrived if the policy approves what matches its rules, and all of them allow it.

    The approval is a signed statement like a person's. A plan about which there is a decision is left as it is, and so
    is one with code that no person has approved. Returns whether it was approved here.
    """
    if passed(plan.until, now or datetime.now(UTC)):
        return False
    if policy.rules.approve != "matching" or approvals.decision(plan, now).decided is not None:
        return False
    if not all(verdict.allows for verdict in policy.check(plan, here)):
        return False
    approvals.decide(identity, plan, "approve", MATCHING, code=sorted(code_of(plan)), now=now)
    return True

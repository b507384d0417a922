"""The decisions that the agent asks for: approvals, checks of orders, what may be shared, and the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flctl.federation.plan.plan import Plan
from flctl.federation.transport.envelope import Envelope
from flctl.types import Ask, Work

__all__ = ["Gate"]


class Gate(Protocol):
    """The owner's side of an agent. Every refusal is `Refused` with its reason."""

    def asked(self, plan: Plan) -> None:
        """A plan has arrived and is kept. A policy that approves plans by itself does so here."""

    def decision(self, plan: Plan) -> Mapping[str, Any] | None:
        """The newest decision on a plan as the note for its coordinator: "decision" (approve, deny, revoke), "reason";
        None before there is one."""

    def check(self, envelope: Envelope, plan: Plan, ask: Ask) -> None:
        """Checks 1 to 6 of a task: envelope, roster, plan and approval, versions, schedule, policy."""

    def check_work(self, plan: Plan, work: Work) -> None:
        """Check 7 of a task's content: layout, number types, finite numbers, and the local training of the schedule."""

    def still_approved(self, plan: Plan) -> None:
        """Raises Refused if the approval was revoked or has expired since."""

    def shared(self, ask: Ask, metrics: Mapping[str, float]) -> dict[str, float]:
        """The site's own figures, of training or of an evaluation, that may leave it."""

    def seconds_a_round(self) -> float | None:
        """Seconds after which a step is ended; None without a limit."""

    def head(self) -> Mapping[str, Any]:
        """The end of the record, which the hub countersigns with the receipt of a decision."""

    def countersigned(self, head: Mapping[str, Any], envelope: bytes, receipt: bytes) -> None:
        """Keeps the hub's receipt of an envelope that carried `head`."""

    def record(self, event: str, **facts: Any) -> None:
        """Adds a line to the record."""

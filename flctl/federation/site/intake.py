"""Plans that arrive at a site, and the decisions on them that go back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any

from pydantic import ValidationError

from flctl.config.config import Config
from flctl.config.sections.training import SECTIONS
from flctl.config.sources import LAYERED, NAMED
from flctl.errors import ProtocolError
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import SiteHome
from flctl.federation.member import FederationMember
from flctl.federation.plan.moments import moment
from flctl.federation.plan.plan import MOST_BYTES, Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.gate import Gate
from flctl.federation.site.journal import Journal
from flctl.federation.site.run_files import SiteRun
from flctl.federation.transport.envelope import Envelope
from flctl.federation.transport.sealing import sealed_size

__all__ = ["PlanIntake", "envelope_until"]

MOST_WAITING = 50
"""Most plans of one coordinator that wait for a decision."""
LATER_SECONDS = 600.0
"""Seconds until a decision that the hub refused is sent again."""


@dataclass
class PlanIntake:
    """Keeps the plans that coordinators send, and sends them the decisions that people make."""

    home: SiteHome
    member: FederationMember
    gate: Gate
    said: Callable[[str], None]
    _seen: tuple[int, ...] | None = None
    _later: dict[str, float] = field(default_factory=dict)

    def take(self, envelope: Envelope, text: bytes) -> None:
        """Fetches, opens and keeps a plan. Raises Refused for one that is not what its envelope says."""
        run = SiteRun.of(self.home, envelope.run)
        if len(envelope.blobs) != 1 or envelope.blobs[0].bytes > sealed_size(MOST_BYTES):
            raise Refused(Reason.BLOB_SIZE)
        if not run.has_plan() and self._waiting(envelope.sender) >= MOST_WAITING:
            raise Refused(Reason.PLANS_WAITING)
        ref = envelope.blobs[0]
        sealed, plain = run.incoming / f"{ref.sha256}.sealed", run.incoming / "plan"
        self.member.client.fetch_blob(ref.sha256, ref.bytes, sealed)
        self.member.open_blob(envelope.run, ref, sealed, plain)
        data = plain.read_bytes()
        run.clear()
        plan = Plan.from_json(data)
        self._check(plan, envelope)
        try:
            self.member.keeper.of_digest(plan.roster)
        except UntrustedError:
            self.member.greet()  # the plan may be newer than the newest roster here; each task is checked against it
        self._keep(plan, data, text, run)

    def _keep(self, plan: Plan, data: bytes, text: bytes, run: SiteRun) -> None:
        if run.keep_plan(data, text):
            self.gate.record(
                "asked", run=plan.run, plan=plan.digest, coordinator=plan.coordinator, purpose=plan.purpose
            )
            self.said(
                f"run {plan.run}: {plan.coordinator} asks for approval; read it with: flctl site review {plan.run}"
            )
            self.gate.asked(plan)

    def _check(self, plan: Plan, envelope: Envelope) -> None:
        checks = (
            (plan.digest == envelope.plan, Reason.PLAN_FORM),
            (plan.federation == envelope.federation, Reason.PLAN_FEDERATION),
            (plan.coordinator == envelope.sender, Reason.PLAN_COORDINATOR),
            (plan.run == envelope.run, Reason.PLAN_RUN),
            (self.member.name in plan.sites, Reason.PLAN_SITES),
            (_is_config(plan.config), Reason.PLAN_FORM),
        )
        for holds, reason in checks:
            if not holds:
                raise Refused(reason)

    def _waiting(self, coordinator: str) -> int:
        """Number of a coordinator's plans without a decision. Without a bound, it could fill the site's disk."""
        plans = (run.plan() for run in SiteRun.all(self.home))
        return sum(plan.coordinator == coordinator and self.gate.decision(plan) is None for plan in plans)

    def send_decisions(self, journal: Journal) -> None:
        """Sends the newest decision on each plan, unless its coordinator has it. Costs nothing without a change.

        One that the hub refuses, as of a coordinator that was removed, is tried again later, and delays no other.
        """
        changed, now = self._changes(), time.monotonic()
        if changed == self._seen and not any(at <= now for at in self._later.values()):
            return
        for run in SiteRun.all(self.home):
            plan = run.plan()
            decision = self.gate.decision(plan)
            if decision is None or self._later.get(plan.digest, 0.0) > now:
                continue
            self._later.pop(plan.digest, None)
            text = json.dumps(dict(decision), sort_keys=True)
            if journal.fact(f"decision {plan.digest}") != text:
                try:
                    self._send(plan, dict(decision))
                except (Refused, ProtocolError) as error:
                    self._later[plan.digest] = time.monotonic() + LATER_SECONDS
                    self.said(f"run {plan.run}: the hub did not take the decision: {error.message}")
                    continue
                journal.keep_fact(f"decision {plan.digest}", text)
        self._seen = changed

    def _changes(self) -> tuple[int, ...]:
        """Times at which the record, and the folders of runs, were last written."""
        folders = sorted(self.home.runs.glob("*")) if self.home.runs.exists() else []
        return tuple(path.stat().st_mtime_ns for path in (self.home.audit, *folders) if path.exists())

    def _send(self, plan: Plan, decision: dict[str, object]) -> None:
        head = self.gate.head()
        envelope = Envelope(
            federation=plan.federation,
            run=plan.run,
            plan=plan.digest,
            sender=self.member.name,
            recipient=plan.coordinator,
            kind="decision",
            until=envelope_until(plan),
            body={**decision, "audit": dict(head)},
        )
        text = self.member.write(envelope)
        self.gate.countersigned(head, text, self.member.client.send_note(text))
        self.said(f"run {plan.run}: the decision '{decision['decision']}' was sent to {plan.coordinator}")


def _is_config(config: Mapping[str, Any]) -> bool:
    """True if these are the settings of a run: each rule of a policy, and the review, reads them as such."""
    try:
        Config.model_validate(config)
    except ValidationError:
        return False
    return all(isinstance(config.get(name, {}), Mapping) for name in (*SECTIONS, *NAMED, LAYERED))


def envelope_until(plan: Plan) -> str:
    """The end of a plan as envelopes write it."""
    return (moment(plan.until) - timedelta(seconds=1)).astimezone(UTC).isoformat(timespec="seconds")

"""Decisions of the sites on a run's plan, and whom the run waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flctl.errors import FlctlError, IncompatibleError
from flctl.federation.coordinator.run_folder import RunFolder
from flctl.federation.member import FederationMember
from flctl.federation.plan.plan import Plan
from flctl.wire.replies import one_line

__all__ = ["Decisions", "ago"]

SAY_SECONDS = 60.0


@dataclass
class Decisions:
    """Follows the sites' decisions. `said` receives one sentence when the sites that are waited for change, and one a
    minute."""

    member: FederationMember
    folder: RunFolder
    plan: Plan
    said: Callable[[str], None]
    _after: int = 0
    _told: tuple[str, float] = ("", -SAY_SECONDS)
    _known: dict[str, str] = field(default_factory=dict)

    def approved(self, wait: float = 0.0) -> bool:
        """True once every site of the plan has approved it; waits up to `wait` seconds for news.

        Raises IncompatibleError if a site denied the plan or revoked its approval.
        """
        if not self._known:
            self._known = {site: str(one["decision"]) for site, one in self.folder.decisions().items()}
        self._read(wait)
        denied = [site for site, decision in self._known.items() if decision != "approve"]
        if denied:
            raise self._denied(denied)
        missing = [site for site in self.plan.sites if site not in self._known]
        if missing:
            self._say(missing)
        return not missing

    def _read(self, wait: float) -> None:
        for number, text in self.member.client.notes(self.folder.name, self._after, wait):
            self._after = max(self._after, number)
            try:
                envelope = self.member.read(text)
            except FlctlError as error:
                self.said(f"a note was not taken: {error.message}")
                continue
            decision = envelope.body.get("decision")
            known = envelope.kind == "decision" and envelope.plan == self.plan.digest
            if known and envelope.sender in self.plan.sites and decision in ("approve", "deny", "revoke"):
                self._known[envelope.sender] = str(decision)
                self.folder.keep_decision(envelope.sender, envelope.body)
                words = {"approve": "approved", "deny": "denied", "revoke": "revoked its approval of"}[str(decision)]
                self.said(f"{envelope.sender} {words} the plan")

    def _say(self, missing: list[str]) -> None:
        sentence = "; ".join(f"{site}: not reviewed yet, asked {ago(self.folder.asked)}" for site in missing)
        names, now = ", ".join(missing), time.monotonic()
        if names != self._told[0] or now - self._told[1] >= SAY_SECONDS:
            self._told = (names, now)
            self.said(f"waiting for {sentence}")

    def _denied(self, sites: list[str]) -> IncompatibleError:
        reasons = [one_line(str(self.folder.decisions().get(site, {}).get("reason", ""))) for site in sites]
        words = "; ".join(f"{site}: {reason or 'no reason given'}" for site, reason in zip(sites, reasons, strict=True))
        return IncompatibleError(
            f"the plan was not approved by {words}",
            hint="Speak with the site, and start a new run with a plan that it can approve.",
        )


def ago(moment: float) -> str:
    """Returns the time since a moment in words.

    >>> ago(time.time() - 7300)
    '2 h ago'
    """
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"

"""Enrolment at the hub: requests to join, members' TLS certificates, and new rosters, in the federation's folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from flctl.federation.identity.certificates import Authority
from flctl.federation.identity.enrolment import Enrolment
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.keys import KEY_FILE
from flctl.federation.identity.renewals import issue
from flctl.federation.identity.roster import Roster
from flctl.federation.reasons import Reason, Refused

__all__ = ["FederationFolder", "Members"]

LOOK_SECONDS = 1.0
REASONS = {
    "invite": Reason.INVITE,
    "expired": Reason.INVITE,
    "unknown": Reason.ROSTER_MEMBER,
    "rollback": Reason.ROSTER_ROLLBACK,
    "equivocation": Reason.ROSTER_EQUIVOCATION,
    "operator": Reason.ROSTER_OPERATOR,
    "federation": Reason.ROSTER_FEDERATION,
}
"""Reasons of refusals for those of untrusted statements; all others are `request-form`."""
T = TypeVar("T")


class Members(Protocol):
    """Members of the federation, and the ways to become one."""

    def roster(self) -> Roster:
        """Returns the newest roster; cheap enough for each request."""
        ...

    def file(self, request: bytes) -> None:
        """Files a signed request to join. Raises Refused."""
        ...

    def certificate(self, request: bytes) -> str:
        """Returns a TLS certificate in PEM for a member's signed request. Raises Refused."""
        ...

    def publish(self, roster: bytes) -> None:
        """Accepts the operator's next roster. Raises Refused."""
        ...

    def waiting(self) -> list[str]:
        """Returns the names whose requests to join were filed and not decided."""
        ...

    def operator_key_here(self) -> bool:
        """True if the operator's private key lies in the hub's folder."""
        ...


class FederationFolder:
    """Members in the folder that the hub shares with the operator's commands. Threads may share it."""

    def __init__(self, home: FederationHome) -> None:
        self.enrolment = Enrolment(home)
        self._home = home
        self._lock = threading.Lock()
        self._newest = self.enrolment.roster()
        self._looked, self._seen = time.monotonic(), self._version()

    def roster(self) -> Roster:
        """Returns the newest roster; the folder is looked at once a second."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            with self._lock:
                self._looked, seen = time.monotonic(), self._version()
                if seen != self._seen:
                    self._newest, self._seen = self.enrolment.roster(), seen
        return self._newest

    def file(self, request: bytes) -> None:
        """Files a signed request to join. Raises Refused."""
        with self._lock:
            _refusing(lambda: self.enrolment.file_request(request))

    def certificate(self, request: bytes) -> str:
        """Returns a TLS certificate in PEM for a member's signed request. Raises Refused."""
        if not self.roster().ca:
            raise Refused(Reason.REQUEST_FORM, "This federation has no certificate authority of its own.")
        return _refusing(lambda: issue(Authority.open(self._home.hub), self.roster(), request))

    def publish(self, roster: bytes) -> None:
        """Accepts the operator's next roster. Raises Refused."""
        with self._lock:
            self._newest = _refusing(lambda: self.enrolment.keeper.accept(roster))
            self._seen = self._version()

    def waiting(self) -> list[str]:
        """Returns the names whose requests to join were filed and not decided."""
        return [request.name for request in self.enrolment.requests()]

    def operator_key_here(self) -> bool:
        """True if the operator's private key lies in the hub's folder."""
        return (self._home.operator / KEY_FILE).exists()

    def _version(self) -> Path | None:
        """The file of the newest roster; names of files sort by version."""
        return max(self._home.roster.glob("[0-9]*"), default=None)


def _refusing(work: Callable[[], T]) -> T:
    """Returns the result of `work`. Raises Refused for a statement that is not to be trusted."""
    try:
        return work()
    except UntrustedError as error:
        reason = REASONS.get(error.reason, Reason.REQUEST_FORM)
        sentence = f"{error.message[:1].upper()}{error.message[1:]}." if reason is Reason.INVITE else None
        raise Refused(reason, sentence) from error

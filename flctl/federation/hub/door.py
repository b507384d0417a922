"""The hub's door: every request is signed by a member of the roster, now, for this hub, and once."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aiohttp import web

from flctl.federation.hub.limits import Rate
from flctl.federation.identity.roster import Member, Roster
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.request_signing import SKEW, SignedRequest, read_authorization
from flctl.federation.transport.serving import HUB

__all__ = ["Caller", "Door"]

MOST_NONCES = 1 << 20
"""Nonces that are remembered; beyond them requests are refused rather than let in twice."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A member of the roster who signed a request, or the hub itself, whose operator asks for its state.

    `body` is the digest of the body that was signed; the caller of the door compares it once the body is read.
    """

    name: str
    role: Literal["site", "coordinator", "hub"]
    signing: bytes
    body: str

    def check_body(self, digest: str) -> None:
        """Raises Refused (`door-signature`) for a body of another digest than the signed one."""
        if digest != self.body:
            raise Refused(Reason.DOOR_SIGNATURE, "The signature is for another body.")


class Door:
    """Checks the signature of each request, its clock and its nonce, and the certificate if TLS is mutual.

    `epoch` is drawn at each start and part of what callers sign.
    """

    def __init__(
        self,
        roster: Callable[[], Roster],
        *,
        certificates: bool,
        requests_a_minute: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.epoch = secrets.token_hex(16)
        self._roster, self._certificates, self._now = roster, certificates, now
        self._rate = Rate(requests_a_minute, keys=1 << 16)
        self._nonces: set[tuple[bytes, str]] = set()
        self._order: deque[tuple[float, tuple[bytes, str]]] = deque()

    def member(self, request: web.Request, *, certificate: bool = True) -> Caller:
        """Returns the member who signed a request. Raises Refused. New members have no TLS certificate yet: requests
        that they need to get one pass `certificate=False`."""
        signed, by = self._checked(request)
        caller = self._caller(signed, by)
        self._rate.count(caller.name)
        self._once((by, signed.nonce))
        if self._certificates and certificate:
            self._check_certificate(request, caller.name)
        return caller

    def hub(self, request: web.Request) -> Caller:
        """Returns the caller if it signed with the hub's own key, which only programs on its machine can read."""
        signed, by = self._checked(request)
        if signed.name != HUB or by != self._roster().hub.signing:
            raise Refused(Reason.DOOR_SIGNATURE)
        self._once((by, signed.nonce))
        return Caller(HUB, "hub", by, signed.body)

    def _checked(self, request: web.Request) -> tuple[SignedRequest, bytes]:
        """Returns a request that its signer signed for this hub, now. It may be a stranger's, or a second one."""
        signed, statement = read_authorization(request.headers.get("Authorization", ""))
        asked = (signed.federation, signed.method, signed.path)
        if asked != (self._roster().federation, request.method, request.raw_path):
            raise Refused(Reason.DOOR_SIGNATURE, "The signature is for another request.")
        if signed.epoch != self.epoch:
            raise Refused(Reason.DOOR_EPOCH)
        now = self._now()
        if abs(now - signed.time) > SKEW:
            raise Refused(Reason.DOOR_CLOCK, _clocks(now, signed.time))
        return signed, statement.by

    def _once(self, nonce: tuple[bytes, str]) -> None:
        """Raises Refused (`door-replay`) for a nonce that was used. Only those of members are kept: a stranger who
        signs with new keys could fill the memory, and lock everybody out."""
        now = self._now()
        while self._order and self._order[0][0] < now - 2 * SKEW:
            self._nonces.discard(self._order.popleft()[1])
        if nonce in self._nonces:
            raise Refused(Reason.DOOR_REPLAY)
        if len(self._nonces) >= MOST_NONCES:
            raise Refused(Reason.DOOR_RATE)
        self._nonces.add(nonce)
        self._order.append((now, nonce))

    def _caller(self, signed: SignedRequest, by: bytes) -> Caller:
        roster, name = self._roster(), signed.name
        site, coordinator = roster.sites.get(name), roster.coordinators.get(name)
        member: Member | None = site or coordinator
        if member is None or member.expired():
            raise Refused(Reason.ROSTER_MEMBER)
        if member.identity.signing != by:
            raise Refused(Reason.DOOR_SIGNATURE)
        return Caller(name, "site" if site else "coordinator", by, signed.body)

    def _check_certificate(self, request: web.Request, name: str) -> None:
        """Raises Refused (`door-certificate`) unless the TLS certificate, which OpenSSL has checked against the
        federation's authority, is that of the member who signed."""
        transport = request.transport
        ssl_object = transport.get_extra_info("ssl_object") if transport else None
        certificate = ssl_object.getpeercert() if ssl_object else None
        subject = dict(pair for parts in (certificate or {}).get("subject", ()) for pair in parts)
        if subject.get("commonName") != name:
            raise Refused(Reason.DOOR_CERTIFICATE)


def _clocks(hub: float, caller: float) -> str:
    here, there = (
        datetime.fromtimestamp(max(0, min(at, 1 << 36)), UTC).isoformat(" ", "seconds") for at in (hub, caller)
    )
    return f"The clocks differ by more than 5 minutes: the hub's is {here}, the caller's {there}. Set the wrong one."

"""A federation of two sites and a coordinator in memory, for tests of envelopes, hub and client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Member, Roster
from flctl.federation.transport.envelope import Envelope, write_envelope

FEDERATION = "hospitals"
UNTIL = "2099-01-01T00:00:00+00:00"
SITES, COORDINATORS = ("st-marys", "elm-street"), ("uni", "lab")


def _identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32, bytes([number]) * 32)


@dataclass(frozen=True)
class TestFederation:
    """Identities by name, and the roster that lists them."""

    __test__ = False
    identities: Mapping[str, Identity]
    roster: Roster

    def envelope(self, kind: str, sender: str, recipient: str, **fields: object) -> Envelope:
        """An envelope of run r1 that does not expire."""
        values = {"run": "r1", "plan": "ab" * 32, "until": UNTIL} | fields
        return Envelope(federation=FEDERATION, sender=sender, recipient=recipient, kind=kind, **values)

    def written(self, kind: str, sender: str, recipient: str, **fields: object) -> bytes:
        """The signed text of such an envelope."""
        return write_envelope(self.identities[sender], self.envelope(kind, sender, recipient, **fields))


@cache
def federation(url: str = "https://hub.example:8443", ca: str = "") -> TestFederation:
    """The federation, always with the same keys."""
    names = ("operator", "hub", *SITES, *COORDINATORS, "stranger")
    identities = {name: _identity(number) for number, name in enumerate(names, 1)}
    members = {name: Member(identities[name].public, "2099-12-31") for name in (*SITES, *COORDINATORS)}
    roster = Roster(
        FEDERATION,
        1,
        "",
        identities["operator"].public.signing,
        url,
        {name: members[name] for name in SITES},
        {name: members[name] for name in COORDINATORS},
        identities["hub"].public,
        bytes(32),
        ca,
    )
    return TestFederation(identities, roster.signed_by(identities["operator"]))

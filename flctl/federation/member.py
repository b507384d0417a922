"""A member of a federation at work: its keys, its hub, and the newest roster that it has accepted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from flctl.errors import FlctlError, ProtocolError
from flctl.federation.addresses import hub_address
from flctl.federation.identity.certificates import has_expired
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import MemberHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.renewals import TLS_CERTIFICATE, keep_certificate, renewal
from flctl.federation.identity.roster import Roster, RosterKeeper
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.envelope import BlobRef, Envelope, key_context, read_envelope, write_envelope
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.joining_calls import request_certificate
from flctl.federation.transport.retries import HubAwayError, Pace
from flctl.federation.transport.sealing import open_file

__all__ = ["FederationMember"]

MOST_CLOCK_SECONDS = 300.0


class FederationMember:
    """A site or coordinator with its connection to the hub. Use it as a context; leaving it ends waiting calls."""

    def __init__(
        self,
        membership: Membership,
        identity: Identity,
        keeper: RosterKeeper,
        client: HubClient,
        roster: Roster | None = None,
    ) -> None:
        self.membership, self.identity, self.client = membership, identity, client
        self.name = membership.name
        self.keeper, self._roster = keeper, roster
        self.operator_key_at_hub = False
        """True if the hub has said, at the last greeting, that the operator's private key lies in its folder."""
        self._home: MemberHome | None = None
        self._proxy: str | None = None

    @classmethod
    def at(
        cls, home: MemberHome, said: Callable[[str], None], proxy: str | None = None, pace: Pace | None = None
    ) -> Self:
        """Opens the member whose folder is `home`. Raises ConfigError if it has not joined a federation."""
        membership, identity = Membership.open(home), Identity.open(home.identity)
        client = HubClient(hub_address(home, membership, proxy), identity, membership.name, said=said, pace=pace)
        made = cls(membership, identity, membership.keeper(home), client)
        made._home, made._proxy = home, proxy
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()

    @property
    def roster(self) -> Roster:
        """The newest accepted roster; the hub is asked for it at the first use."""
        return self._roster or self.greet()

    def greet(self) -> Roster:
        """Asks the hub for the newest roster and accepts it.

        Raises UntrustedError for a roster that is older, conflicting or another operator's, Refused (`door-clock`) if
        the clocks differ by more than 5 minutes.
        """
        if self._home is not None:
            self._readdress(self._home)
        hello = self.client.hello()
        apart = hello.time - time.time()
        if abs(apart) > MOST_CLOCK_SECONDS:
            raise Refused(Reason.DOOR_CLOCK, f"The hub's clock is {apart:+.0f} s from this one's; 300 s are allowed.")
        self._roster, self.operator_key_at_hub = self.keeper.accept(hello.roster), hello.operator_key_here
        if self._home is not None:
            self._follow(self._home, self._roster)
        return self._roster

    def roster_of(self, digest: str) -> Roster:
        """Returns the accepted roster with this digest, such as the one that a plan names.

        Raises UntrustedError (`unknown`) if it was not accepted here.
        """
        return self.roster if self.roster.digest == digest else self.keeper.of_digest(digest)

    def _follow(self, home: MemberHome, roster: Roster) -> None:
        """Renews the own TLS certificate if it ends soon, and goes on at the address that the roster names."""
        if roster.tls == "own":
            self._renew(home.identity, roster.federation)
        self._readdress(home)

    def _readdress(self, home: MemberHome) -> None:
        address = hub_address(home, self.membership, self._proxy)
        if address != self.client.address:
            self.client.address = address

    def _renew(self, folder: Path, federation: str) -> None:
        request = renewal(folder, self.identity, federation, self.name)
        if request is None:
            return
        try:
            keep_certificate(folder, request_certificate(self.client.address, request))
        except (HubAwayError, Refused, ProtocolError, UntrustedError):
            if not (folder / TLS_CERTIFICATE).exists() or has_expired(folder / TLS_CERTIFICATE):
                raise  # a certificate that still holds is renewed another time

    def write(self, envelope: Envelope) -> bytes:
        """Signs an envelope."""
        return write_envelope(self.identity, envelope)

    def read(self, text: bytes) -> Envelope:
        """Returns an envelope of a member to this one. A newer roster, of which the hub's answers give the version, is
        asked for first, so that a removed member's order is refused; so it is before a stranger is refused."""
        if self.client.roster_version > self.roster.version:
            self.greet()
        try:
            return read_envelope(text, self.roster, self.name)
        except Refused as refused:
            if refused.reason not in (Reason.ENVELOPE_SENDER, Reason.ENVELOPE_SIGNATURE):
                raise
        return read_envelope(text, self.greet(), self.name)

    def open_blob(self, run: str, ref: BlobRef, sealed: Path, plain: Path) -> None:
        """Decrypts a fetched blob into `plain`. Raises Refused (`blob-sealed`, `blob-segments`, `blob-digest`)."""
        try:
            key = self.identity.unseal(bytes.fromhex(ref.key), key_context(run, ref.sha256))
        except (FlctlError, ValueError) as error:
            raise Refused(Reason.BLOB_SEALED) from error
        if len(key) != 32:
            raise Refused(Reason.BLOB_SEALED)
        open_file(sealed, plain, key, ref.plaintext)

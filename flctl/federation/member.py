"""A member of a federation at work: its keys, its hub, and the newest roster that it has accepted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from flctl.atomic import write_file
from flctl.errors import ConfigError, FlctlError
from flctl.federation.identity.homes import CoordinatorHome, SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.renewals import TLS_CERTIFICATE, TLS_KEY
from flctl.federation.identity.roster import Roster
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.connection import HubAddress, fetch_authority
from flctl.federation.transport.envelope import BlobRef, Envelope, key_context, read_envelope, write_envelope
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.retries import Pace
from flctl.federation.transport.sealing import open_file

__all__ = ["FederationMember"]

MOST_CLOCK_SECONDS = 300.0
AUTHORITY = "authority.pem"
Home = SiteHome | CoordinatorHome


class FederationMember:
    """A site or coordinator with its connection to the hub. Use it as a context; leaving it ends waiting calls."""

    def __init__(
        self, membership: Membership, identity: Identity, keeper: Any, client: HubClient, roster: Roster | None = None
    ) -> None:
        self.membership, self.identity, self.client = membership, identity, client
        self.name = membership.name
        self._keeper, self._roster = keeper, roster

    @classmethod
    def at(cls, home: Home, said: Callable[[str], None], proxy: str | None = None, pace: Pace | None = None) -> Self:
        """Opens the member whose folder is `home`. Raises ConfigError if it has not joined a federation."""
        membership, identity = Membership.open(home), Identity.open(home.identity)
        client = HubClient(hub_address(home, membership, proxy), identity, membership.name, said=said, pace=pace)
        return cls(membership, identity, membership.keeper(home), client)

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
        hello = self.client.hello()
        apart = hello.time - time.time()
        if abs(apart) > MOST_CLOCK_SECONDS:
            raise Refused(Reason.DOOR_CLOCK, f"The hub's clock is {apart:+.0f} s from this one's; 300 s are allowed.")
        self._roster = self._keeper.accept(hello.roster)
        return self._roster

    def write(self, envelope: Envelope) -> bytes:
        """Signs an envelope."""
        return write_envelope(self.identity, envelope)

    def read(self, text: bytes) -> Envelope:
        """Returns an envelope of a member to this one; asks for a newer roster before a stranger is refused."""
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


def hub_address(home: Home, membership: Membership, proxy: str | None = None) -> HubAddress:
    """The address of the hub with the TLS files in a member's home, as far as they are there.

    The newest accepted roster overrides the invite's address. The authority of the hub's certificate is fetched once,
    and has to be the one that the invite or the roster names.
    """
    url, certificate_authority, fingerprint = membership.url, "", membership.authority
    try:
        roster = membership.keeper(home).newest()
        url, certificate_authority, fingerprint = roster.url, roster.ca, roster.ca_fingerprint
    except ConfigError:  # no roster yet
        pass
    file = home.path / AUTHORITY
    certificate, key = home.identity / TLS_CERTIFICATE, home.identity / TLS_KEY
    both = certificate.exists() and key.exists()
    address = HubAddress(
        url=url,
        federation=membership.federation,
        authority=file if fingerprint else None,
        certificate=certificate if both else None,
        key=key if both else None,
        proxy=proxy,
    )
    if certificate_authority and (not file.exists() or file.read_text() != certificate_authority):
        write_file(file, certificate_authority.encode())
    if fingerprint and not file.exists():
        write_file(file, fetch_authority(replace(address, authority=None), fingerprint))
    return address

"""Invites and requests to join: the line that an operator mails, and the request that a site files with it.

An invite pins the operator: a site never trusts the key that a port shows. Its secret is the seed of a signing key for
one request, of which the operator keeps only the public half, so that neither the hub nor the network learns it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from flctl.errors import ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.curves import KEY_BYTES
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity, PublicIdentity, hex_bytes
from flctl.federation.identity.names import require_name
from flctl.federation.identity.roster import day, require_url
from flctl.federation.identity.statements import sign, verify

__all__ = ["LARGEST_REQUEST", "Invite", "JoinRequest", "Role"]

PREFIX = "flctl-invite:"
LARGEST_REQUEST = 1 << 14
LONGEST_INVITE = 4096
JOIN, INVITED = "flctl/join/1", "flctl/invited/1"
Role = Literal["site", "coordinator"]
ROLES = ("site", "coordinator")
INVITE_FIELDS = {"authority", "federation", "name", "operator", "role", "secret", "until", "url"}
REQUEST_FIELDS = {"federation", "identity", "name", "operator", "role"}


@dataclass(frozen=True)
class Invite:
    """Permission to file one request to join, under one name, until a day.

    `authority` is the SHA-256 of the CA certificate (DER) that signed the hub's certificate; empty if the hub has one
    that the system trusts. `secret` is the seed of the key that signs the request.

    >>> operator = Identity.new().public
    >>> made = Invite("hospitals", "st-marys", "site", "https://fl.example:8443", operator, "", bytes(32), "2026-12-05")
    >>> Invite.read(made.text) == made
    True
    """

    federation: str
    name: str
    role: Role
    url: str
    operator: PublicIdentity
    authority: str
    secret: bytes = field(repr=False)
    until: str

    def __post_init__(self) -> None:
        require_name(self.federation, "federation")
        _require_role(self.role)
        require_name(self.name, self.role)
        require_url(self.url)
        day(self.until)
        if self.authority != "":
            hex_bytes(self.authority, 32)

    @property
    def key(self) -> Identity:
        """The key that signs the request to join."""
        return Identity(self.secret, self.secret)

    @property
    def text(self) -> str:
        """The one line to mail."""
        value = {
            "authority": self.authority,
            "federation": self.federation,
            "name": self.name,
            "operator": self.operator.to_json(),
            "role": self.role,
            "secret": self.secret.hex(),
            "until": self.until,
            "url": self.url,
        }
        return PREFIX + base64.urlsafe_b64encode(canonical(value)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads the line. Blanks and line breaks that a mail program added do not matter.

        Raises UntrustedError (`format`, `name`, `key`).
        """
        line = "".join(text.split())
        encoded = line.removeprefix(PREFIX)
        if encoded == line or len(line) > LONGEST_INVITE:
            raise _unreadable()
        try:
            value = parse(base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True), LONGEST_INVITE)
        except (binascii.Error, ValueError, ProtocolError) as error:
            raise _unreadable() from error
        if not isinstance(value, dict) or set(value) != INVITE_FIELDS:
            raise _unreadable()
        return cls(
            value["federation"],
            value["name"],
            value["role"],
            value["url"],
            PublicIdentity.from_json(value["operator"]),
            value["authority"],
            hex_bytes(value["secret"], KEY_BYTES),
            value["until"],
        )

    def request(self, identity: Identity) -> bytes:
        """Returns the request to join, signed by the identity that joins and by the invite's key."""
        statement = {
            "federation": self.federation,
            "identity": identity.public.to_json(),
            "name": self.name,
            "operator": self.operator.to_json(),
            "role": self.role,
        }
        inner = parse(sign(identity, JOIN, statement), LARGEST_REQUEST)
        return sign(self.key, INVITED, {"request": inner})


@dataclass(frozen=True)
class JoinRequest:
    """A request to join whose two signatures were verified; `invite` is the public key of the invite it was made with.

    `operator` is the operator that the site has pinned.
    """

    federation: str
    name: str
    role: Role
    identity: PublicIdentity
    operator: PublicIdentity
    invite: bytes
    text: bytes = field(repr=False)

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Reads a request. Raises UntrustedError unless it is signed by the identity in it and by the invite's key."""
        outer = verify(text, INVITED, most=LARGEST_REQUEST)
        if set(outer.statement) != {"request"}:
            raise UntrustedError("format", "the request to join has other fields than expected")
        inner = verify(canonical(outer.statement["request"]), JOIN, most=LARGEST_REQUEST)
        value: Mapping[str, Any] = inner.statement
        if set(value) != REQUEST_FIELDS:
            raise UntrustedError("format", "the request to join has other fields than expected")
        identity = PublicIdentity.from_json(value["identity"])
        if identity.signing != inner.by:
            raise UntrustedError("signer", "the request to join is not signed by the identity that it names")
        return cls(
            require_name(value["federation"], "federation"),
            require_name(value["name"], _require_role(value["role"])),
            value["role"],
            identity,
            PublicIdentity.from_json(value["operator"]),
            outer.by,
            text,
        )


def _require_role(role: Any) -> str:
    if role not in ROLES:
        raise UntrustedError("format", "a role is site or coordinator")
    return str(role)


def _unreadable() -> UntrustedError:
    return UntrustedError(
        "format",
        f"this is not an invite: expected one line that begins with {PREFIX}",
        hint="Copy the whole line from the operator's mail, in single quotes.",
    )

"""Joining at a site or a coordinator: its keys, its request, and the membership that pins the operator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flctl.atomic import write_file
from flctl.errors import ConfigError, IntegrityError, ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import MemberHome, SiteHome
from flctl.federation.identity.invites import Invite, Role
from flctl.federation.identity.keys import KEY_FILE, Identity, PublicIdentity
from flctl.federation.identity.names import require_name
from flctl.federation.identity.roster import RosterKeeper, require_url, today

__all__ = ["REQUEST_FILE", "Membership", "join"]

REQUEST_FILE = "join-request.json"
FIELDS = {"authority", "federation", "name", "operator", "role", "url"}


@dataclass(frozen=True)
class Membership:
    """Own name in a federation, the hub's address, and the operator that was pinned at joining.

    `url` and `authority` are those of the invite; the newest roster overrides them.
    """

    federation: str
    name: str
    role: Role
    url: str
    operator: PublicIdentity
    authority: str = ""

    @classmethod
    def open(cls, home: MemberHome) -> Self:
        """Reads the membership in `home`. Raises ConfigError if it has none, IntegrityError if it is damaged."""
        try:
            with home.membership.open("rb") as file:
                text = file.read(1 << 14)
        except FileNotFoundError as error:
            command = "flctl site join" if isinstance(home, SiteHome) else "flctl federation join"
            raise ConfigError(
                f"{home.path} is not the home of a member of a federation",
                hint=f"Name its folder (--home or engine.home), or join: {command} 'LINE' --home {home.path}",
            ) from error
        try:
            value = parse(text.removesuffix(b"\n"), 1 << 14)
            if not isinstance(value, dict) or set(value) != FIELDS:
                raise ProtocolError("fields")
            operator = PublicIdentity.from_json(value["operator"])
            names = require_name(value["federation"], "federation"), require_name(value["name"], "member")
            return cls(*names, value["role"], require_url(value["url"]), operator, value["authority"])
        except (ProtocolError, UntrustedError) as error:
            raise IntegrityError(f"{home.membership} is damaged", hint="Restore it from a backup.") from error

    def same_member(self, other: Membership) -> bool:
        """True if the two are one member of one federation and operator; the hub's address may differ."""
        mine, theirs = ((one.federation, one.name, one.role, one.operator) for one in (self, other))
        return mine == theirs

    def write(self, home: MemberHome) -> None:
        """Stores the membership in `home`."""
        value = {
            "authority": self.authority,
            "federation": self.federation,
            "name": self.name,
            "operator": self.operator.to_json(),
            "role": self.role,
            "url": self.url,
        }
        write_file(home.membership, canonical(value) + b"\n")

    def keeper(self, home: MemberHome) -> RosterKeeper:
        """Returns the keeper of accepted rosters, for the pinned operator."""
        return RosterKeeper(home.roster, self.operator.signing)


def join(home: MemberHome, invite: Invite) -> tuple[Identity, bytes]:
    """Makes the keys of a site or coordinator and returns them with its request to join; again, the same ones.

    Raises UntrustedError (`expired`) for a late invite, ConfigError if the home is a member of another federation, or
    under another name.
    """
    if today() > invite.until:
        raise UntrustedError(
            "expired", f"the invite ended on {invite.until}", hint="Ask the operator for another: it is one command."
        )
    wanted = Membership(invite.federation, invite.name, invite.role, invite.url, invite.operator, invite.authority)
    if home.membership.exists() and not (known := Membership.open(home)).same_member(wanted):
        raise ConfigError(
            f"{home.path} is {known.name} in the federation {known.federation}",
            hint="Use another folder for another membership: --home DIR",
        )
    identity = Identity.open(home.identity) if _has_keys(home.identity) else Identity.create(home.identity)
    request = invite.request(identity)
    write_file(home.path / REQUEST_FILE, request)
    wanted.write(home)
    return identity, request


def _has_keys(folder: Path) -> bool:
    return (folder / KEY_FILE).exists()

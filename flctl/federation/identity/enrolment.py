"""Enrolment at the operator: the federation's folder, invites, requests to join, and the roster's next version.

The hub shares this folder: it files requests and serves the roster, and it cannot sign one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from flctl.atomic import refuse_existing, write_file
from flctl.errors import ConfigError, FlctlError, IntegrityError, ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.certificates import Authority, make_tls_key, read_tls_key
from flctl.federation.identity.curves import KEY_BYTES
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.invites import LARGEST_REQUEST, Invite, JoinRequest, Role
from flctl.federation.identity.keys import PUBLIC_FILE, Identity, PublicIdentity, hex_bytes
from flctl.federation.identity.names import require_name
from flctl.federation.identity.renewals import TLS_CERTIFICATE, TLS_KEY
from flctl.federation.identity.roster import Member, Roster, RosterKeeper, require_url, today

__all__ = ["Enrolment", "Founding", "OpenInvite", "found"]

SETTINGS = """\
# Settings of the federation's hub. Members, keys and the hub's address are in the signed roster.
federation: {federation}
url: {url}
# own: certificates of the federation's own CA; house: of your PKI; server: TLS ends at a proxy before the hub
tls: {tls}
"""
"""Text of federation.yaml."""


@dataclass(frozen=True)
class Founding:
    """Facts for a new federation: its name, the hub's address, the way of TLS, and the folder of the operator's key
    (None: in the federation's folder)."""

    federation: str
    url: str
    tls: str = "own"
    key: Path | None = None


@dataclass(frozen=True)
class OpenInvite:
    """An invite as the operator remembers it: without its secret."""

    name: str
    role: Role
    key: bytes
    until: str

    @property
    def expired(self) -> bool:
        """True after the last day."""
        return today() > self.until


def found(home: FederationHome, founding: Founding) -> Roster:
    """Makes a federation: keys of operator and hub, the CA and the hub's TLS certificate, and version 1 of the roster.

    Raises ConfigError if the folder has a federation.
    """
    require_name(founding.federation, "federation")
    require_url(founding.url)
    refuse_existing(home.settings)
    operator = Identity.create(founding.key or home.operator)
    if founding.key is not None:
        write_file(home.operator / PUBLIC_FILE, canonical(operator.public.to_json()) + b"\n")
    hub = Identity.create(home.hub)
    authority = Authority.create(home.hub, founding.federation) if founding.tls == "own" else None
    if authority is not None:
        make_tls_key(home.hub / TLS_KEY)
        _certify(home, authority, founding.url)
    draft = Roster(
        founding.federation,
        1,
        "",
        operator.public.signing,
        founding.url,
        {},
        {},
        hub.public,
        os.urandom(32),
        authority.pem if authority else "",
        founding.tls,
    )
    roster = RosterKeeper(home.roster, operator.public.signing).accept(draft.signed_by(operator).signed)
    text = SETTINGS.format(federation=founding.federation, url=founding.url, tls=founding.tls)
    write_file(home.settings, text.encode())  # last: a folder with settings is a whole federation
    return roster


class Enrolment:
    """Invites, requests and members of one federation, in its folder.

    Raises ConfigError if the folder has no federation.
    """

    def __init__(self, home: FederationHome) -> None:
        self.home = home
        if not home.settings.exists():
            raise ConfigError(
                f"there is no federation in {home.path}",
                hint="Name its folder with --home, or make one: flctl federation init NAME --url URL",
            )
        self.operator = _public(home.operator / PUBLIC_FILE)
        self.keeper = RosterKeeper(home.roster, self.operator.signing)

    def roster(self) -> Roster:
        """Returns the newest roster."""
        return self.keeper.newest()

    def invite(self, name: str, role: Role, days: int) -> Invite:
        """Makes an invite that lasts `days` days. It replaces a former one for that name, with its request.

        Raises ConfigError if the name is a member's: remove it first.
        """
        roster = self.roster()
        if name in roster.sites or name in roster.coordinators:
            raise ConfigError(
                f"{name} is a member already",
                hint=f"If it lost its keys, remove it first: flctl federation remove {name}",
            )
        until = (datetime.now(UTC).date() + timedelta(days=days)).isoformat()
        made = Invite(
            roster.federation, name, role, roster.url, self.operator, roster.ca_fingerprint, os.urandom(32), until
        )
        self._forget(name)
        value = {"key": made.key.public.signing.hex(), "name": name, "role": role, "until": until}
        write_file(self._invite_path(name), canonical(value))
        return made

    def invites(self) -> list[OpenInvite]:
        """Returns all invites, used ones included, sorted by name."""
        return [_open_invite(path) for path in sorted(self.home.invites.glob("*.json"))]

    def requests(self) -> list[JoinRequest]:
        """Returns the filed requests of names that are not members yet, sorted by name."""
        roster = self.roster()
        found = [JoinRequest.read(_small(path)) for path in sorted(self.home.requests.glob("*.json"))]
        return [one for one in found if one.name not in roster.sites and one.name not in roster.coordinators]

    def file_request(self, text: bytes) -> JoinRequest:
        """Checks a request to join and files it, once for each invite; the same request again changes nothing.

        Raises UntrustedError: `federation`, `operator`, `invite` (unknown, used, for another name or role), `expired`,
        and the reasons of `JoinRequest.read`.
        """
        request = JoinRequest.read(text)
        if request.federation != self.roster().federation:
            raise UntrustedError("federation", f"the request is for another federation than {self.roster().federation}")
        if request.operator != self.operator:
            raise UntrustedError("operator", "the request names another operator than this federation's")
        invite = self._invite(request.name)
        if invite is None or (invite.key, invite.role) != (request.invite, request.role):
            raise UntrustedError(
                "invite",
                f"there is no such invite for {request.name}, or a newer one replaced it",
                hint=f"The operator makes one with: flctl federation invite {request.name}",
            )
        path = self.home.requests / f"{request.name}.json"
        if path.exists() and _small(path) == text:
            return request
        if path.exists():
            raise _used(request.name)
        if invite.expired:
            raise UntrustedError("expired", f"the invite for {request.name} ended on {invite.until}")
        try:
            write_file(path, text, replace=False)
        except ConfigError as error:  # a request that came in between
            raise _used(request.name) from error
        return request

    def request(self, name: str) -> JoinRequest:
        """Returns the filed request under a name. Raises ConfigError before it was filed."""
        require_name(name)
        path = self.home.requests / f"{name}.json"
        if not path.exists():
            raise ConfigError(
                f"there is no request to join from {name}",
                hint="Wait until its people have run flctl site join, or name their file with --request FILE.",
            )
        return JoinRequest.read(_small(path))

    def admit(self, request: JoinRequest, operator: Identity, until: str) -> Roster:
        """Signs the roster's next version, with the request's identity as a member until a day."""
        with self._alone():
            roster = self.roster()
            members = dict(roster.sites if request.role == "site" else roster.coordinators)
            members[request.name] = Member(request.identity, until)
            return self._sign(operator, **_members(request.role, members))

    def extend(self, name: str, operator: Identity, until: str) -> Roster:
        """Signs the roster's next version, with another last day for a member."""
        with self._alone():
            role, member = self.member(name)
            members = dict(self.roster().sites if role == "site" else self.roster().coordinators)
            members[name] = replace(member, until=until)
            return self._sign(operator, **_members(role, members))

    def remove(self, name: str, operator: Identity) -> Roster:
        """Signs the roster's next version, without a member, and forgets its invite and request."""
        with self._alone():
            role, _ = self.member(name)
            members = dict(self.roster().sites if role == "site" else self.roster().coordinators)
            del members[name]
            signed = self._sign(operator, **_members(role, members))
        self._forget(name)
        return signed

    def move(self, url: str, operator: Identity) -> Roster:
        """Signs the roster's next version, with another address of the hub, and renews the hub's certificate."""
        require_url(url)
        with self._alone():
            signed = self._sign(operator, url=url)
        self.renew_hub()
        return signed

    def renew_hub(self) -> bool:
        """Issues a new certificate for the hub's address. Returns False if the federation has no CA of its own."""
        roster = self.roster()
        if roster.tls != "own":
            return False
        _certify(self.home, Authority.open(self.home.hub), roster.url)
        return True

    def member(self, name: str) -> tuple[Role, Member]:
        """Returns the role and the entry of a member. Raises ConfigError for another name."""
        roster = self.roster()
        if name in roster.sites:
            return "site", roster.sites[name]
        if name in roster.coordinators:
            return "coordinator", roster.coordinators[name]
        raise ConfigError(
            f"{ascii(name)[:80]} is not a member of {roster.federation}", hint="flctl federation roster lists them."
        )

    def open_operator(self, key: Path | None = None) -> Identity:
        """Opens the operator's private keys, in `key` (a folder, or the file in it) or in the federation's folder.

        Raises UntrustedError (`operator`) if they are another operator's.
        """
        folder = self.home.operator if key is None else key.parent if key.is_file() else key
        operator = Identity.open(folder)
        if operator.public != self.operator:
            raise UntrustedError("operator", f"the key in {folder} is not the key of this federation's operator")
        return operator

    def _sign(self, operator: Identity, **changes: Any) -> Roster:
        newest = self.roster()
        draft = replace(
            newest,
            version=newest.version + 1,
            previous=newest.digest,
            graph_seed=os.urandom(32),
            signed=b"",
            digest="",
            **changes,
        )
        return self.keeper.accept(draft.signed_by(operator).signed)

    def _alone(self) -> FileLock:
        """Lock for one change: two at a time would sign two rosters of one version, which members refuse for ever."""
        return FileLock(self.home.path / "operator.lock")

    def _invite(self, name: str) -> OpenInvite | None:
        path = self._invite_path(name)
        return _open_invite(path) if path.exists() else None

    def _invite_path(self, name: str) -> Path:
        return self.home.invites / f"{require_name(name)}.json"

    def _forget(self, name: str) -> None:
        self._invite_path(name).unlink(missing_ok=True)
        (self.home.requests / f"{name}.json").unlink(missing_ok=True)


def _members(role: Role, members: Mapping[str, Member]) -> dict[str, Mapping[str, Member]]:
    return {"sites" if role == "site" else "coordinators": members}


def _certify(home: FederationHome, authority: Authority, url: str) -> None:
    key = read_tls_key(home.hub / TLS_KEY)
    write_file(home.hub / TLS_CERTIFICATE, authority.server(key, [urlsplit(url).hostname or ""]).encode())


def _open_invite(path: Path) -> OpenInvite:
    try:
        value = parse(_small(path), LARGEST_REQUEST)
        return OpenInvite(value["name"], value["role"], hex_bytes(value["key"], KEY_BYTES), value["until"])
    except (FlctlError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged", hint="Delete it, and invite again.") from error


def _public(path: Path) -> PublicIdentity:
    try:
        return PublicIdentity.from_json(parse(_small(path).removesuffix(b"\n"), LARGEST_REQUEST))
    except (ProtocolError, UntrustedError) as error:
        raise IntegrityError(f"{path} is not a public identity", hint="Restore it from a backup.") from error


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_REQUEST + 1)


def _used(name: str) -> UntrustedError:
    return UntrustedError(
        "invite",
        f"the invite for {name} was used already, by another identity",
        hint="If that was not you, tell the operator: the invite has leaked. A new one replaces it.",
    )

"""The roster: all sites and coordinators of a federation with their public keys, signed by the operator.

`RosterKeeper` keeps the accepted ones, against rollback and equivocation.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from flctl.atomic import write_file
from flctl.errors import ConfigError
from flctl.federation.identity.curves import KEY_BYTES, is_identity
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity, PublicIdentity, hex_bytes
from flctl.federation.identity.names import require_name
from flctl.federation.identity.statements import Signed, sign, verify

__all__ = [
    "LARGEST_ROSTER",
    "MEMBERS",
    "PURPOSE",
    "TLS",
    "Member",
    "Roster",
    "RosterKeeper",
    "day",
    "require_url",
    "today",
]

PURPOSE = "flctl-roster/2"
MEMBERS = 10_000
LARGEST_ROSTER = 8 << 20
LARGEST_CA = 1 << 14
TLS = ("own", "house", "server")
"""Ways of TLS: certificates of the federation's own CA, of a house PKI, or at the server alone."""
SUFFIX = ".roster.json"
HINT = "Do not go on: compare the roster's version and digest with the operator by telephone."
FIELDS = frozenset(
    {"ca", "coordinators", "federation", "graph_seed", "hub", "operator", "previous", "sites", "tls", "url", "version"}
)
_DIGEST = re.compile("[0-9a-f]{64}")
_URL = re.compile(r"https://[A-Za-z0-9.:\[\]-]{1,255}(/[A-Za-z0-9._~/-]{0,200})?")


@dataclass(frozen=True)
class Member:
    """A site or a coordinator: its public keys, and the last day (UTC, ISO date) on which it takes part.

    >>> Member(Identity.new().public, until="2026-12-31").expired("2027-01-01")
    True
    """

    identity: PublicIdentity
    until: str

    def __post_init__(self) -> None:
        day(self.until)

    def expired(self, on: str | None = None) -> bool:
        """True after the last day; `on` is an ISO date, today in UTC unless given."""
        return (on or today()) > self.until


@dataclass(frozen=True)
class Roster:
    """Members of a federation, at one version, as the operator signed them.

    `operator` is the operator's Ed25519 key, `hub` the keys that sign the hub's receipts. `ca` is the certificate of
    the federation's own CA (PEM; empty without one). `graph_seed` (32 random bytes, new in each version) decides the
    neighbours of secure aggregation. `previous` is the digest of the version before, empty for version 1. `signed` is
    the signed text, empty before `signed_by`.

    >>> operator, site, hub = Identity.new(), Identity.new(), Identity.new()
    >>> draft = Roster("hospitals", 1, "", operator.public.signing, "https://fl.example:8443",
    ...     {"st-marys": Member(site.public, "2027-12-31")}, {}, hub.public, bytes(32))
    >>> roster = Roster.read(draft.signed_by(operator).signed)
    >>> roster.site("st-marys", on="2027-01-01").identity == site.public
    True
    """

    federation: str
    version: int
    previous: str
    operator: bytes
    url: str
    sites: Mapping[str, Member]
    coordinators: Mapping[str, Member]
    hub: PublicIdentity
    graph_seed: bytes
    ca: str = ""
    tls: str = "own"
    signed: bytes = field(default=b"", repr=False)
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))
        object.__setattr__(self, "coordinators", MappingProxyType(dict(self.coordinators)))
        _check_fields(self)
        _check_keys(self)

    @cached_property
    def ca_fingerprint(self) -> str:
        """SHA-256 of the CA's certificate (DER), as certificate tools show it; empty if the federation has no CA."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.ca)).hexdigest() if self.ca else ""

    def site(self, name: str, on: str | None = None) -> Member:
        """Returns a site. Raises UntrustedError (`unknown`, `expired`); `on` is an ISO date, today unless given."""
        return self._member(self.sites, name, "site", on)

    def coordinator(self, name: str, on: str | None = None) -> Member:
        """Returns a coordinator. Raises UntrustedError (`unknown`, `expired`)."""
        return self._member(self.coordinators, name, "coordinator", on)

    def name_of(self, signing: bytes) -> str | None:
        """Returns the name of the member with this Ed25519 key, or None for a stranger."""
        return self._by_key.get(signing)

    @cached_property
    def _by_key(self) -> Mapping[bytes, str]:
        members = (*self.sites.items(), *self.coordinators.items())
        return {member.identity.signing: name for name, member in members}

    def _member(self, members: Mapping[str, Member], name: str, kind: str, on: str | None) -> Member:
        member = members.get(name)
        if member is None:
            raise UntrustedError(
                "unknown", f"{ascii(name)[:80]} is not a {kind} of version {self.version} of the roster"
            )
        if member.expired(on):
            raise UntrustedError(
                "expired",
                f"the {kind} {name} took part until {member.until}",
                hint=f"The operator extends it with: flctl federation admit {name} --until DATE",
            )
        return member

    def signed_by(self, operator: Identity) -> Self:
        """Returns this roster with the operator's signature. Raises UntrustedError (`operator`) for another key."""
        if operator.public.signing != self.operator:
            raise UntrustedError("operator", "the key is not the operator's key that the roster names")
        return self.read(sign(operator, PURPOSE, self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Returns the statement that the operator signs."""
        return {
            "ca": self.ca,
            "coordinators": _members_json(self.coordinators),
            "federation": self.federation,
            "graph_seed": self.graph_seed.hex(),
            "hub": self.hub.to_json(),
            "operator": self.operator.hex(),
            "previous": self.previous,
            "sites": _members_json(self.sites),
            "tls": self.tls,
            "url": self.url,
            "version": self.version,
        }

    @classmethod
    def read(cls, text: bytes, operator: bytes | None = None) -> Self:
        """Reads a signed roster of at most 8 MiB. Raises UntrustedError if anything in it is not valid, and with the
        reason `operator` if `operator` is given and another key signed."""
        signed = verify(text, PURPOSE, most=LARGEST_ROSTER)
        value = signed.statement
        if set(value) != FIELDS:
            raise UntrustedError("format", "the roster has other fields than expected")
        if operator is not None and signed.by != operator:
            raise UntrustedError("operator", "the roster is signed by another operator than the pinned one")
        if signed.by != hex_bytes(value["operator"], KEY_BYTES):
            raise UntrustedError("operator", "the roster is signed by another operator than it names")
        return cls._from(signed)

    @classmethod
    def _from(cls, signed: Signed) -> Self:
        value = signed.statement
        return cls(
            federation=value["federation"],
            version=value["version"],
            previous=value["previous"],
            operator=hex_bytes(value["operator"], KEY_BYTES),
            url=value["url"],
            sites=_members_of(value["sites"]),
            coordinators=_members_of(value["coordinators"]),
            hub=PublicIdentity.from_json(value["hub"]),
            graph_seed=hex_bytes(value["graph_seed"], 32),
            ca=value["ca"],
            tls=value["tls"],
            signed=signed.text,
            digest=signed.digest,
        )


class RosterKeeper:
    """Folder of accepted rosters, one file a version. `operator` is the pinned Ed25519 key of the operator.

    A version is accepted once, only ever a higher one follows, and the next one has to name the digest of the newest.
    The conflicting text of an equivocation is kept as evidence, because both texts are signed by the operator.
    """

    def __init__(self, folder: Path, operator: bytes) -> None:
        self.folder = folder
        self.operator = operator

    def newest(self) -> Roster:
        """Returns the newest accepted roster. Raises ConfigError for an empty folder."""
        path = self._newest_path()
        if path is None:
            raise ConfigError(
                f"there is no roster in {self.folder}", hint="The hub sends it: run flctl site doctor to see why not."
            )
        return Roster.read(_read(path), self.operator)

    def all(self) -> Iterator[Roster]:
        """Yields the accepted rosters by version, each of them verified again."""
        for path in sorted(self.folder.glob(f"[0-9]*{SUFFIX}")):
            yield Roster.read(_read(path), self.operator)

    def of_digest(self, digest: str) -> Roster:
        """Returns the accepted roster with this digest, for a plan that was made with it.

        Raises UntrustedError (`unknown`) if no such roster was accepted here.
        """
        for path in sorted(self.folder.glob(f"[0-9]*{SUFFIX}"), reverse=True):
            roster = Roster.read(_read(path), self.operator)
            if roster.digest == digest:
                return roster
        raise UntrustedError("unknown", "no roster with this digest was accepted here")

    def accept(self, signed: bytes) -> Roster:
        """Accepts a signed roster, or returns the newest one if it is the same.

        Raises UntrustedError with the reason `operator`, `federation`, `rollback` or `equivocation`, and those of
        `Roster.read`.
        """
        roster = Roster.read(signed, self.operator)
        if self._newest_path() is None:
            return self._keep(roster)
        newest = self.newest()
        if roster.federation != newest.federation:
            raise UntrustedError("federation", f"the roster is of another federation than {newest.federation}")
        if roster.version < newest.version:
            raise UntrustedError(
                "rollback", f"the roster has version {roster.version}, and version {newest.version} is known", hint=HINT
            )
        if roster.version == newest.version and roster.digest == newest.digest:
            return newest
        if roster.version == newest.version or (
            roster.version == newest.version + 1 and roster.previous != newest.digest
        ):
            self._keep_evidence(roster)
            raise UntrustedError(
                "equivocation",
                f"the operator signed two rosters that do not fit together: version {roster.version} does not "
                f"continue the known version {newest.version}",
                hint=HINT,
            )
        return self._keep(roster)

    def _newest_path(self) -> Path | None:
        return max(self.folder.glob(f"[0-9]*{SUFFIX}"), default=None)

    def _keep(self, roster: Roster) -> Roster:
        write_file(self.folder / f"{roster.version:016d}{SUFFIX}", roster.signed)
        return roster

    def _keep_evidence(self, roster: Roster) -> None:
        write_file(self.folder / f"equivocation-{roster.version:016d}-{roster.digest[:16]}.json", roster.signed)


def today() -> str:
    """Returns today's ISO date in UTC."""
    return datetime.now(UTC).date().isoformat()


def require_url(url: Any) -> str:
    """Returns the address of a hub if it is an https URL without user, query and fragment. Raises UntrustedError
    (`format`) otherwise."""
    if isinstance(url, str) and _URL.fullmatch(url):
        return url
    raise UntrustedError(
        "format", f"{ascii(url)[:80]} is not the address of a hub", hint="Write for example https://fl.example:8443"
    )


def day(text: Any) -> str:
    """Returns an ISO date, for example 2027-01-31. Raises UntrustedError (`format`) for anything else."""
    try:
        if isinstance(text, str) and date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise UntrustedError("format", f"{ascii(text)[:40]} is not a date", hint="Write YYYY-MM-DD.")


def _members_json(members: Mapping[str, Member]) -> dict[str, Any]:
    return {name: {**member.identity.to_json(), "until": member.until} for name, member in members.items()}


def _members_of(value: Any) -> dict[str, Member]:
    if not isinstance(value, Mapping):
        raise UntrustedError("format", "the members of a roster are an object")
    return {name: _member_of(item) for name, item in value.items()}


def _member_of(value: Any) -> Member:
    if not isinstance(value, Mapping) or set(value) != {"sealing", "signing", "until"}:
        raise UntrustedError("format", "a member has the fields sealing, signing and until")
    identity = PublicIdentity.from_json({name: value[name] for name in ("sealing", "signing")})
    return Member(identity, value["until"])


def _check_fields(roster: Roster) -> None:
    require_name(roster.federation, "federation")
    for kind, names in (("site", roster.sites), ("coordinator", roster.coordinators)):
        for name in names:
            require_name(name, kind)
    require_url(roster.url)
    version, previous = roster.version, roster.previous
    valid = {
        "version": isinstance(version, int) and not isinstance(version, bool) and 1 <= version < 1 << 53,
        "previous": isinstance(previous, str) and bool(_DIGEST.fullmatch(previous)) == (version != 1),
        "ca": isinstance(roster.ca, str) and len(roster.ca) <= LARGEST_CA and roster.ca.isascii(),
        "tls": roster.tls in TLS,
        "graph_seed": len(roster.graph_seed) == 32,
        "number of members": len(roster.sites) + len(roster.coordinators) <= MEMBERS,
    }
    if version == 1:
        valid["previous"] = previous == ""
    for name, holds in valid.items():
        if not holds:
            raise UntrustedError("format", f"the roster's {name} is not valid")
    if both := sorted(set(roster.sites) & set(roster.coordinators)):
        raise UntrustedError("name", f"{both[0]} is a site and a coordinator; expected different names")


def _check_keys(roster: Roster) -> None:
    """Raises UntrustedError if two members share a key: one could answer, or read, for the other."""
    if not is_identity(roster.operator):
        raise UntrustedError("key", "the operator's key is of low order or is not an Ed25519 key")
    members = [member.identity for member in (*roster.sites.values(), *roster.coordinators.values())]
    _refuse_repeats([roster.operator, roster.hub.signing, *(one.signing for one in members)])
    _refuse_repeats([roster.hub.sealing, *(one.sealing for one in members)])


def _refuse_repeats(keys: Iterable[bytes]) -> None:
    found = list(keys)
    if len(set(found)) != len(found):
        raise UntrustedError("key", "the roster has one key twice", hint="Each member makes keys of its own.")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_ROSTER + 1)

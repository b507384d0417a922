"""Inspection of a federation's folder at its operator or hub: keys, certificates, rosters, members, requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from flctl.errors import FlctlError, counted
from flctl.federation.identity.certificates import Authority, last_moment, needs_renewal, read_public
from flctl.federation.identity.enrolment import Enrolment
from flctl.federation.identity.keys import KEY_FILE, Identity
from flctl.federation.identity.renewals import TLS_CERTIFICATE, TLS_KEY
from flctl.federation.identity.roster import Roster

__all__ = ["FolderFinding", "inspect"]

SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class FolderFinding:
    """Result of one check: `fail` if the hub cannot serve or a member would refuse it, `warn` if it soon will."""

    subject: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def inspect(enrolment: Enrolment) -> Iterator[FolderFinding]:
    """Yields the findings of all checks, each of which goes on after a failure of another."""
    for subject, check in (
        ("roster", _roster),
        ("operator", _operator),
        ("hub", _hub),
        ("private files", _private),
        ("certificate", _certificate),
        ("members", _members),
        ("requests", _requests),
    ):
        try:
            yield FolderFinding(subject, *check(enrolment))
        except FlctlError as error:
            yield FolderFinding(subject, "fail", error.message)


Verdict = tuple[Literal["ok", "warn", "fail"], str]


def _roster(enrolment: Enrolment) -> Verdict:
    """Reads all versions again: each has to be signed, and to name the digest of the one before."""
    before: Roster | None = None
    for roster in enrolment.keeper.all():
        if before is not None and roster.version == before.version + 1 and roster.previous != before.digest:
            return "fail", f"version {roster.version} does not continue version {before.version}"
        before = roster
    newest = enrolment.roster()
    if evidence := sorted(enrolment.home.roster.glob("equivocation-*")):
        return "fail", f"the operator's key signed two rosters of one version: {evidence[0].name}"
    return "ok", f"version {newest.version}, {newest.digest[:16]}, at {newest.url}"


def _operator(enrolment: Enrolment) -> Verdict:
    if not (enrolment.home.operator / KEY_FILE).exists():
        return "ok", f"{enrolment.operator.words}; the private key is elsewhere"
    enrolment.open_operator()
    return "warn", "the private key lies here: on the hub's machine, an intruder could admit members with it"


def _hub(enrolment: Enrolment) -> Verdict:
    identity = Identity.open(enrolment.home.hub)
    if identity.public != enrolment.roster().hub:
        return "fail", "the hub's key is another one than the roster's: restore hub/identity.key from a backup"
    return "ok", identity.public.words


def _private(enrolment: Enrolment) -> Verdict:
    if os.name != "posix":
        return "ok", "permissions are not checked on this system"
    keys = sorted(enrolment.home.path.rglob("*.key"))
    if readable := [path for path in keys if path.stat().st_mode & 0o077]:
        return "fail", f"other users can read {_below(enrolment, readable[0])}: run chmod 600 on it"
    return "ok", f"{counted(len(keys), 'private key')}, readable by their owner alone"


def _certificate(enrolment: Enrolment) -> Verdict:
    roster, path = enrolment.roster(), enrolment.home.hub / TLS_CERTIFICATE
    if roster.tls == "server":
        return "ok", "TLS ends at a proxy before the hub"
    if not path.exists() or not (enrolment.home.hub / TLS_KEY).exists():
        return "fail", f"{_below(enrolment, path)} or its key is missing"
    if roster.tls == "own" and Authority.open(enrolment.home.hub).pem != roster.ca:
        return "fail", "the CA is another one than the roster's: restore hub/ca.key and hub/ca.pem from a backup"
    end = last_moment(read_public(path))
    if end <= datetime.now(UTC):
        return "fail", f"expired on {end.date()}: run flctl federation renew"
    return ("warn" if needs_renewal(path) else "ok"), f"valid until {end.date()}"


def _members(enrolment: Enrolment) -> Verdict:
    roster = enrolment.roster()
    members = {**roster.sites, **roster.coordinators}
    soon = (datetime.now(UTC).date() + SOON).isoformat()
    over = sorted(name for name, member in members.items() if member.expired())
    ending = sorted(name for name, member in members.items() if member.expired(soon) and name not in over)
    text = f"{counted(len(roster.sites), 'site')}, {counted(len(roster.coordinators), 'coordinator')}"
    text += f"; over: {', '.join(over)}" if over else ""
    text += f"; over within 30 days: {', '.join(ending)}" if ending else ""
    return ("warn" if over or ending else "ok"), text


def _requests(enrolment: Enrolment) -> Verdict:
    waiting = [request.name for request in enrolment.requests()]
    return "ok", f"to decide: {', '.join(waiting)}" if waiting else "no request waits"


def _below(enrolment: Enrolment, path: Path) -> str:
    return path.relative_to(enrolment.home.path).as_posix()

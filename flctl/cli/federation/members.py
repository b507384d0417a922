"""Options, lines and questions that several commands about members share."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.errors import ConfigError, command_line

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.identity.enrolment import Enrolment
    from flctl.federation.identity.roster import Member, Roster

__all__ = [
    "Home",
    "Key",
    "address",
    "confirm_words",
    "last_day",
    "member_facts",
    "named",
    "open_enrolment",
    "print_pairs",
    "version_facts",
]

YEAR = 365
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Folder of the federation; default: $FLCTL_FEDERATION_HOME, else the only one in the user's state folder.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option("--key", help="Folder of the operator's key, if it is not in the federation's folder."),
]


def open_enrolment(home: Path | None) -> Enrolment:
    """Opens the federation in `home`, else in the environment's folder, else the only one of the user.

    Raises ConfigError without one, and if there is more than one.
    """
    from flctl.federation.identity.enrolment import Enrolment
    from flctl.federation.identity.homes import FederationHome

    return Enrolment(FederationHome.at(home) if home else FederationHome.only())


def last_day(until: str | None) -> str:
    """Returns `until`, an ISO date that is not over yet; a year from now unless it is given. Raises ConfigError."""
    from flctl.federation.identity.failures import UntrustedError
    from flctl.federation.identity.roster import day, today

    if until is None:
        return (datetime.now(UTC).date() + timedelta(days=YEAR)).isoformat()
    try:
        found = day(until)
    except UntrustedError as error:
        raise ConfigError(f"--until: {error.message}", hint="Write --until YYYY-MM-DD.") from error
    if found < today():
        raise ConfigError(f"--until {found} is in the past", hint="Write a day to come, or leave it out for a year.")
    return found


def confirm_words(name: str, words: str, spoken: str | None, *, as_json: bool) -> None:
    """Requires that the words of a request were compared with the site's people, by a question or by `spoken`.

    Raises ConfigError if the question cannot be asked, UntrustedError (`key`) if the words differ or the answer is no.
    """
    from flctl.federation.identity.failures import UntrustedError
    from flctl.federation.identity.words import alike

    differ = UntrustedError(
        "key",
        f"the words of the request from {name} are not those that its people see; nothing was signed",
        hint=f"Somebody else may hold the invite. Replace it: {command_line('flctl', 'federation', 'invite', name)}",
    )
    if spoken is not None:
        if not alike(words, spoken):
            raise differ
        return
    if as_json or not sys.stdin.isatty():
        raise ConfigError(
            f"the words of {name} have to be compared, and there is no terminal to ask at",
            hint="Have its people read their words to you, and write --words 'WORD WORD WORD WORD WORD WORD'",
        )
    typer.echo(f"\n    {words}\n", err=True)
    if not typer.confirm(f"Do the people of {name} read the same six words to you?", err=True):
        raise differ


def named(name: str, kind: str = "site") -> str:
    """Returns a name from the command line. Raises ConfigError if it is not valid."""
    from flctl.federation.identity.failures import UntrustedError
    from flctl.federation.identity.names import require_name

    try:
        return require_name(name, kind)
    except UntrustedError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def address(url: str) -> str:
    """Returns a hub's address from the command line. Raises ConfigError if it is not valid."""
    from flctl.federation.identity.failures import UntrustedError
    from flctl.federation.identity.roster import require_url

    try:
        return require_url(url)
    except UntrustedError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def version_facts(roster: Roster) -> dict[str, Any]:
    """Returns the facts of a roster's version for the JSON envelope."""
    return {
        "federation": roster.federation,
        "version": roster.version,
        "digest": roster.digest,
        "sites": list(roster.sites),
        "coordinators": list(roster.coordinators),
    }


def member_facts(name: str, role: str, member: Member) -> dict[str, Any]:
    """Returns the facts of a member for the JSON envelope."""
    return {
        "name": name,
        "role": role,
        "until": member.until,
        "expired": member.expired(),
        "words": member.identity.words,
        **member.identity.to_json(),
    }


def print_pairs(console: Console, pairs: dict[str, Any]) -> None:
    """Prints names and values, one pair a line."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        console.print(f"{name:{width}}  {value}", markup=False)

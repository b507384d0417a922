"""`flctl federation admit`: sign a new version of the roster with one more member."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.federation.members import (
    Home,
    Key,
    confirm_words,
    last_day,
    member_facts,
    named,
    open_enrolment,
    print_pairs,
    version_facts,
)
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from flctl.federation.identity.enrolment import Enrolment
    from flctl.federation.identity.invites import JoinRequest
    from flctl.federation.identity.roster import Roster

__all__ = ["register"]

ADMIT_HELP = """
Admit a site or coordinator that has filed a request: signs the next version of the roster with the operator's key.

Shows the six words of its keys and asks whether its people read the same ones: compare them by telephone, not by
mail. For a member, with --until, changes its last day.

Examples:

    flctl federation admit st-marys

    flctl federation admit st-marys --request st-marys.join.json --key stick/operator

    flctl federation admit st-marys --until 2027-12-31
"""


def register(group: typer.Typer) -> None:
    """Adds `admit` to the group."""
    group.command("admit", help=ADMIT_HELP)(admit)


def admit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the site or coordinator.")],
    request: Annotated[
        Path | None, typer.Option("--request", help="File of a request made with join --offline; default: the hub's.")
    ] = None,
    words: Annotated[
        str | None, typer.Option("--words", help="The six words that its people read to you, in place of the question.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Last day of the membership, YYYY-MM-DD; default: in a year.")
    ] = None,
    key: Key = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """See ADMIT_HELP."""
    enrolment = open_enrolment(home)
    day = last_day(until)
    named(name)
    if until is not None and request is None and _is_member(enrolment, name):
        roster = enrolment.extend(name, enrolment.open_operator(key), day)
    else:
        filed = _filed(enrolment, name, request)
        operator = enrolment.open_operator(key)  # before the question: a missing stick is found at once
        confirm_words(name, filed.identity.words, words, as_json=as_json)
        roster = enrolment.admit(filed, operator, day)
    data, shown = _told(roster, name)
    output.emit("federation admit", data, as_json=as_json, render=lambda console: print_pairs(console, shown))


def _is_member(enrolment: Enrolment, name: str) -> bool:
    roster = enrolment.roster()
    return name in roster.sites or name in roster.coordinators


def _filed(enrolment: Enrolment, name: str, file: Path | None) -> JoinRequest:
    """Returns the request under `name`, filed from `file` if one is given. Raises ConfigError, UntrustedError."""
    from flctl.errors import ConfigError
    from flctl.federation.identity.invites import LARGEST_REQUEST

    if _is_member(enrolment, name):
        raise ConfigError(
            f"{name} is a member already",
            hint=f"Its last day: flctl federation admit {name} --until DATE. New keys: flctl federation remove {name}",
        )
    if file is None:
        return enrolment.request(name)
    with file.open("rb") as source:
        filed = enrolment.file_request(source.read(LARGEST_REQUEST + 1))
    if filed.name != name:
        raise ConfigError(f"{file} is a request from {filed.name}, not from {name}", hint=f"Write admit {filed.name}")
    return filed


def _told(roster: Roster, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    role = "site" if name in roster.sites else "coordinator"
    member = roster.sites[name] if role == "site" else roster.coordinators[name]
    shown = {
        role: name,
        "words": member.identity.words,
        "until": member.until,
        "roster": f"version {roster.version}, {roster.digest[:16]}",
    }
    return {**version_facts(roster), "member": member_facts(name, role, member)}, shown

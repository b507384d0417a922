"""`flctl federation roster`: members, open invites and requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, member_facts, open_enrolment, print_pairs, version_facts
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.identity.enrolment import Enrolment

__all__ = ["register"]

ROSTER_HELP = """
List the members of the signed roster with the words of their keys, and the open invites and requests.

Examples:

    flctl federation roster

    flctl federation roster --publish     (after changes on another machine than the hub's)
"""


def register(group: typer.Typer) -> None:
    """Adds `roster` to the group."""
    group.command("roster", help=ROSTER_HELP)(roster)


def roster(
    publish: Annotated[
        bool, typer.Option("--publish", help="First bring the newest version to the hub, over the network.")
    ] = False,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """See ROSTER_HELP."""
    enrolment = open_enrolment(home)
    if publish:
        _publish(enrolment)
    data = _facts(enrolment)
    output.emit("federation roster", data, as_json=as_json, render=lambda console: _render(console, data))


def _publish(enrolment: Enrolment) -> None:
    """Brings the newest roster to the hub at its address. Raises Refused, HubAwayError."""
    from flctl.federation.transport.connection import HubAddress
    from flctl.federation.transport.joining_calls import publish_roster

    newest, authority = enrolment.roster(), enrolment.home.hub / "ca.pem"
    address = HubAddress(newest.url, newest.federation, authority if newest.ca else None)
    output.note(f"the hub at {newest.url} has version {publish_roster(address, newest.signed)}")


def _facts(enrolment: Enrolment) -> dict[str, Any]:
    found = enrolment.roster()
    members = [
        *(member_facts(name, "site", member) for name, member in found.sites.items()),
        *(member_facts(name, "coordinator", member) for name, member in found.coordinators.items()),
    ]
    requests = {request.name: request for request in enrolment.requests()}
    invites = [
        {"name": one.name, "role": one.role, "until": one.until, "expired": one.expired}
        for one in enrolment.invites()
        if one.name not in requests and one.name not in found.sites and one.name not in found.coordinators
    ]
    return {
        **version_facts(found),
        "url": found.url,
        "operator_words": enrolment.operator.words,
        "operator_key_here": (enrolment.home.operator / "identity.key").exists(),
        "members": members,
        "requests": [
            {"name": name, "role": request.role, "words": request.identity.words} for name, request in requests.items()
        ],
        "invites": invites,
    }


def _render(console: Console, data: Mapping[str, Any]) -> None:
    shown = {
        "federation": data["federation"],
        "hub": data["url"],
        "roster": f"version {data['version']}, {data['digest'][:16]}",
        "operator's words": data["operator_words"],
    }
    print_pairs(console, shown)
    members = [(one["name"], one["role"], one["words"], _until(one)) for one in data["members"]]
    members += [(one["name"], f"{one['role']}, asks to join", one["words"], "") for one in data["requests"]]
    members += [(one["name"], f"{one['role']}, invited", "", _until(one)) for one in data["invites"]]
    if members:
        output.table(console, ("name", "role", "words", "until"), members, left=4)


def _until(one: Mapping[str, Any]) -> str:
    return f"{one['until']} (over)" if one["expired"] else str(one["until"])

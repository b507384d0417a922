"""`flctl federation invite`: one line to mail to a site or a coordinator."""

from __future__ import annotations

from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, named, open_enrolment
from flctl.cli.output import JsonFlag

__all__ = ["register"]

INVITE_HELP = """
Print an invite: one line to mail. It permits one request to join under NAME, and pins the operator's key.

A line that leaks lets a stranger file that request, which the comparison of words in `flctl federation admit` stops.
A new invite for the same name voids the former one and its request.

Examples:

    flctl federation invite st-marys --days 7

    flctl federation invite --coordinator uni
"""


def register(group: typer.Typer) -> None:
    """Adds `invite` to the group."""
    group.command("invite", help=INVITE_HELP)(invite)


def invite(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the site: lower-case letters, digits, hyphens.")],
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="Days for which the line is valid.")] = 7,
    coordinator: Annotated[
        bool, typer.Option("--coordinator", help="Invite a coordinator, who starts runs, and no site.")
    ] = False,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """See INVITE_HELP."""
    enrolment = open_enrolment(home)
    made = enrolment.invite(named(name), "coordinator" if coordinator else "site", days)
    data = {
        "federation": made.federation,
        "name": name,
        "role": made.role,
        "until": made.until,
        "invite": made.text,
        "operator_words": made.operator.words,
    }
    output.emit("federation invite", data, as_json=as_json, render=lambda console: output.write_line(made.text))
    command = "federation" if coordinator else "site"
    output.note(f"valid until {made.until}. Its people run: flctl {command} join 'LINE'")
    output.note(f"by telephone, they should hear these words of yours: {made.operator.words}")

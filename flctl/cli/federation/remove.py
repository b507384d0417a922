"""`flctl federation remove`: sign a new version of the roster without a member."""

from __future__ import annotations

from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, Key, open_enrolment, print_pairs, version_facts
from flctl.cli.output import JsonFlag

__all__ = ["register"]

REMOVE_HELP = """
Remove a site or coordinator: signs the next version of the roster without it.

The hub refuses it from then on; sites refuse its orders once they have the new version. Runs in progress go on without
it. To give a site new keys, remove it and invite it again.

Example:

    flctl federation remove st-marys
"""


def register(group: typer.Typer) -> None:
    """Adds `remove` to the group."""
    group.command("remove", help=REMOVE_HELP)(remove)


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the site or coordinator.")],
    key: Key = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """See REMOVE_HELP."""
    enrolment = open_enrolment(home)
    roster = enrolment.remove(name, enrolment.open_operator(key))
    data = {**version_facts(roster), "removed": name}
    shown = {"removed": name, "roster": f"version {roster.version}, {roster.digest[:16]}"}
    output.emit("federation remove", data, as_json=as_json, render=lambda console: print_pairs(console, shown))

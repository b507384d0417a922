"""`flctl site deny`: the data owner's signed denial of a plan."""

from __future__ import annotations

import typer

from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, ReasonOption, RunArgument, decided, opened_desk, show_decision

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `deny` to the group."""
    group.command("deny")(deny)


def deny(
    run: RunArgument = None,
    reason: ReasonOption = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Deny a plan, with a signed statement in this site's record and the reason sent to the coordinator.

    Example:

        flctl site deny stroke-1 --reason 'too few sites'
    """
    desk = opened_desk(home)
    show_decision(decided(desk, desk.plan(run), "deny", reason), as_json=as_json)

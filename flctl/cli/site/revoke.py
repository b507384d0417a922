"""`flctl site revoke`: takes back the approval of a plan."""

from __future__ import annotations

import typer

from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, ReasonOption, RunArgument, decided, opened_desk, show_decision

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `revoke` to the group."""
    group.command("revoke")(revoke)


def revoke(
    run: RunArgument = None,
    reason: ReasonOption = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Revoke the approval of a plan: from now on no order of it is answered, and no reply that waits is sent.

    Example:

        flctl site revoke stroke-1 --reason 'consent was withdrawn'
    """
    desk = opened_desk(home)
    show_decision(decided(desk, desk.plan(run), "revoke", reason), as_json=as_json)

"""`flctl site approve`: the data owner's signed approval of a plan, or of a study."""

from __future__ import annotations

from typing import Annotated

import typer

from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, ReasonOption, RunArgument, decided, opened_desk, show_decision

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `approve` to the group."""
    group.command("approve")(approve)


def approve(
    run: RunArgument = None,
    reason: ReasonOption = "",
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="Last day of the approval; default: the plan's.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Approve the plan's study: most runs.", rich_help_panel="Study")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Most rounds of the study.", rich_help_panel="Study")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", min=0, help="Most epsilon of the study.", rich_help_panel="Study")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Approve a plan, with a signed statement in this site's record.

    The approval holds for exactly this plan: one changed value is another plan. Code that the plan names is copied to
    the approved code; the worker gets those bytes.

    Examples:

        flctl site approve stroke-1 --until 2027-01-31 --reason 'ethics vote 12/26'
        flctl site approve rates-1 --runs 20 --rounds 2000 --epsilon 4 --reason 'study 7'
    """
    from flctl.errors import ConfigError
    from flctl.federation.site.approvals import Totals

    desk = opened_desk(home)
    plan = desk.plan(run)
    if (runs is None) != (rounds is None) or (epsilon is not None and runs is None):
        hint = "For example --runs 20 --rounds 2000."
        raise ConfigError("a study's approval needs both --runs and --rounds", hint=hint)
    totals = Totals(runs, rounds, epsilon) if runs is not None and rounds is not None else None
    show_decision(decided(desk, plan, "approve", reason, until=until, totals=totals), as_json=as_json)

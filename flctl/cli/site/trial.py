"""`flctl site try`: a plan on made-up rows, before anything is approved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, RunArgument, opened_desk

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.site.trial import TrialStep

__all__ = ["register"]

TRY_HELP = """
Train the first round of a plan on made-up rows of the schema, in this site's own confined worker. Nothing leaves.

Shows the vectors that would be sent, their size, and the time. No row of the site is read.

Example: flctl site try stroke-1
"""


def register(group: typer.Typer) -> None:
    """Adds `try` to the group."""
    group.command("try", help=TRY_HELP)(trial)


def trial(run: RunArgument = None, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """See TRY_HELP."""
    from flctl.cli.session import current_registry
    from flctl.federation.site.trial import try_plan

    desk = opened_desk(home)
    plan = desk.plan(run)
    found = try_plan(desk.home, desk.membership.name, plan, current_registry())
    data = {"run": plan.run, **found.to_json()}
    output.emit("site try", data, as_json=as_json, render=lambda console: _show(console, found))


def _show(console: Console, found: TrialStep) -> None:
    rows = [(name, f"{length:,}") for name, length in found.vectors.items()]
    output.table(console, ("vector", "numbers"), rows)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items()) or "none"
    console.print(f"{found.bytes:,} bytes before sealing; figures: {figures}", markup=False)
    console.print(f"{found.seconds:.1f} s, with the start of the worker; made-up rows, nothing was sent", markup=False)

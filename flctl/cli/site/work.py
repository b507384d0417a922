"""`flctl site work --once`: the orders that are there, and then an end."""

from __future__ import annotations

from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.agents import SiteHomeFolder, opened

__all__ = ["register"]

WORK_HELP = """
Answer the orders that are at the hub now, and end: for cron, Slurm, and machines without daemons.

Examples:

    flctl site work --once

    */5 * * * *  flctl site work --once        (cron)

    sbatch --wrap 'flctl site work --once'     (Slurm)
"""


def register(group: typer.Typer) -> None:
    """Adds `work` to the group."""
    group.command("work", help=WORK_HELP)(work)


def work(
    once: Annotated[bool, typer.Option("--once", help="End when no order is left.")] = False,
    home: SiteHomeFolder = None,
    as_json: JsonFlag = False,
) -> None:
    """See WORK_HELP."""
    from flctl.errors import ConfigError, counted

    if not once:
        raise ConfigError("`flctl site work` needs --once", hint="To answer orders for ever: flctl site serve")
    with opened(home, patient=False) as agent:
        handled = agent.work_once()
    text = f"{counted(handled, 'order')} answered"
    output.emit("site work", {"orders": handled}, as_json=as_json, render=lambda console: console.print(text))

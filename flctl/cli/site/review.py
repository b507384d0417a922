"""`flctl site review`: a coordinator's plan as the data owner reads it before deciding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, RunArgument, opened_desk

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.plan.plan import Plan
    from flctl.federation.site.desk import Desk
    from flctl.federation.site.review import Review

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `review` to the group."""
    group.command("review")(review)


def review(
    run: RunArgument = None,
    code: Annotated[
        list[Path] | None,
        typer.Option("--code", help="A file of user code that the plan names by its SHA-256; may be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all plans and their decisions.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a plan: the coordinator, the purpose, what leaves this site, privacy, versions, code, and the policy.

    Nothing runs: the plan is read, and code is shown as text.

    Examples:

        flctl site review
        flctl site review stroke-1 --code net.py
        flctl site review --all
    """
    from flctl.federation.site.review import Review

    desk = opened_desk(home)
    if every:
        _list(desk, as_json=as_json)
        return
    plan = desk.plan(run)
    for file in code or ():
        _receive(desk, plan, file)
    found = Review.of(desk, plan)
    output.emit("site review", found.to_json(), lambda console: _show(console, found), as_json=as_json)


def _show(console: Console, found: Review) -> None:
    for line in found.lines(min(max(console.width, 60), 100)):
        heading = bool(line) and not line.startswith(" ")
        console.print(output.plain(line), markup=False, style="bold" if heading else None)
    if found.standing != "approved":
        run = found.plan.run
        console.print(
            f"\nDecide: flctl site approve {run} --until {found.plan.until} --reason '...'   or   "
            f"flctl site deny {run} --reason '...'",
            markup=False,
            soft_wrap=True,
        )


def _list(desk: Desk, *, as_json: bool) -> None:
    rows = []
    for plan in desk.plans().values():
        standing = desk.approvals.decision(plan)
        decision = "approved" if standing.approved else str(standing.reason)
        rows.append({"run": plan.run, "coordinator": plan.coordinator, "until": plan.until, "decision": decision})

    def show(console: Console) -> None:
        output.table(console, ("run", "coordinator", "until", "decision"), [row.values() for row in rows], left=4)

    output.emit("site review", {"plans": rows}, show, as_json=as_json)


def _receive(desk: Desk, plan: Plan, file: Path) -> None:
    """Puts a file into the quarantine. Raises ConfigError if the plan does not name it by its SHA-256."""
    import hashlib

    from flctl.errors import ConfigError
    from flctl.federation.site.policy import code_of

    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest not in code_of(plan):
        raise ConfigError(
            f"{file.name} has the SHA-256 {digest[:12]}..., which the plan of {plan.run} does not name",
            hint="Ask the coordinator for the file that was hashed.",
        )
    desk.code.receive(data)

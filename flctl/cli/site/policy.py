"""`flctl site policy`: the rules by which this site decides, each explained, or applied to a plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, opened_desk

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from flctl.federation.plan.plan import Plan
    from flctl.federation.site.desk import Desk
    from flctl.federation.site.policy import Verdict

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `policy` to the group."""
    group.command("policy")(policy)


def policy(
    check: Annotated[
        str | None, typer.Option("--check", metavar="PLAN", help="Apply each rule to this run's plan, or a plan file.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Explain each rule of this site's policy, or apply them all to a plan.

    The policy is the file policy.yaml in the site's folder. What no rule allows is denied. With --check, the exit code
    is 3 if a rule denies the plan.

    Examples:

        flctl site policy
        flctl site policy --check stroke-1
    """
    desk = opened_desk(home)
    if check is None:
        rows = list(_rules(desk.policy.rules))
        data = {key: value for key, value, _ in rows}
        output.emit("site policy", data, lambda console: _explain(console, rows), as_json=as_json)
        return
    plan = _plan(desk, check)
    verdicts = desk.policy.check(plan, desk.here(plan))
    data = {"run": plan.run, "rules": [_as_json(verdict) for verdict in verdicts]}
    output.emit("site policy", data, lambda console: _show(console, verdicts), as_json=as_json)
    if any(not verdict.allows for verdict in verdicts):
        raise typer.Exit(3)


def _plan(desk: Desk, name: str) -> Plan:
    from flctl.federation.plan.plan import Plan

    file = Path(name)
    return Plan.from_json(file.read_bytes()) if file.is_file() else desk.plan(name)


def _rules(model: BaseModel, at: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields each rule's key, value and meaning."""
    from pydantic import BaseModel

    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _rules(value, f"{at}{name}.")
        else:
            plain = {key: one.model_dump() for key, one in value.items()} if isinstance(value, dict) else value
            yield f"{at}{name}", plain, str(field.description)


def _explain(console: Console, rows: list[tuple[str, Any, str]]) -> None:
    shown = [(key, _word(value), text) for key, value, text in rows]
    output.table(console, ("rule", "value", "meaning"), shown, left=3)


def _word(value: Any) -> str:
    if value in (None, (), {}):
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, dict)) else str(value)


def _show(console: Console, verdicts: list[Verdict]) -> None:
    rows = [("allow" if one.allows else "deny", one.rule, one.found, one.allowed) for one in verdicts]
    output.table(console, ("", "rule", "plan", "policy"), rows, left=4)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    reason = None if verdict.reason is None else verdict.reason.value
    return {"rule": verdict.rule, "reason": reason, "found": verdict.found, "allowed": verdict.allowed}

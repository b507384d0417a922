"""`flctl site log`: the site's record of everything asked, decided, refused and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.owner import HomeOption, opened_desk

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.site.audit import AuditLine

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `log` to the group."""
    group.command("log")(log)


def log(
    run: Annotated[str | None, typer.Option("--run", help="Lines about this run alone.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="Newest lines to show.")] = 50,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain, its signed head and receipts.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the record of this site, or verify that no line was changed, cut or inserted.

    Examples:

        flctl site log --run stroke-1
        flctl site log --verify
    """
    from flctl.errors import counted
    from flctl.federation.site.receipts import AuditReceipts

    desk = opened_desk(home)
    if verify:
        head = desk.audit.verify(desk.identity.public.signing)
        receipts = AuditReceipts(desk.audit).verify(desk.roster.hub.signing) if desk.roster else 0
        data = {"lines": head.lines, "digest": head.digest, "receipts": receipts}
        said = (
            f"{counted(head.lines, 'line')}, unchanged; {counted(receipts, 'receipt')} of the hub\nhead {head.digest}"
        )
        output.emit("site log", data, lambda console: console.print(said, markup=False), as_json=as_json)
        return
    lines = [_shown(line) for line in desk.audit.lines()]
    chosen = [line for line in lines if run is None or line["facts"].get("run") == run][-last:]

    def show(console: Console) -> None:
        rows = [(line["number"], line["at"], line["kind"], _words(line["facts"])) for line in chosen]
        output.table(console, ("line", "time", "event", "facts"), rows, left=4)

    output.emit("site log", {"lines": chosen}, show, as_json=as_json)


def _shown(line: AuditLine) -> dict[str, Any]:
    """A line without the texts of plans; a signed decision is shown as what it states."""
    import json

    facts = {key: value for key, value in line.facts.items() if key != "text"}
    if "signed" in facts:
        stated = json.loads(facts.pop("signed"))["statement"]
        facts |= {key: stated[key] for key in ("decision", "plan", "until", "reason")}
    return {"number": line.number, "at": line.at, "kind": line.kind, "facts": facts}


def _words(facts: dict[str, Any]) -> str:
    """The facts in words: digests by their first digits, and of signed statements, which `--json` has, that they are
    kept."""
    return ", ".join(f"{key} {_brief(str(value))}" for key, value in facts.items())


def _brief(text: str) -> str:
    from flctl.federation.transport.tasks import is_task_id

    if text.startswith('{"by":'):
        return "kept"
    return text[:12] if is_task_id(text) else text[:40]

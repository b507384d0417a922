"""`flctl site doctor`: what a site needs, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.agents import SiteHomeFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from flctl.federation.site.doctor import Finding

__all__ = ["register"]

DOCTOR_HELP = """
Check what a site needs: home, keys, name resolution, proxy, TLS, clock, roster, data, disk, versions, confinement.

One line each. Exit code 1 if one of them fails.

Example: flctl site doctor
"""


def register(group: typer.Typer) -> None:
    """Adds `doctor` to the group."""
    group.command("doctor", help=DOCTOR_HELP)(doctor)


def doctor(home: SiteHomeFolder = None, as_json: JsonFlag = False) -> None:
    """See DOCTOR_HELP."""
    from flctl.federation.identity.homes import SiteHome
    from flctl.federation.site.doctor import examine

    found = list(examine(SiteHome.at(home)))
    failed = sum(finding.state == "failed" for finding in found)
    data = {"findings": [finding.to_json() for finding in found], "failed": failed}
    output.emit("site doctor", data, as_json=as_json, render=lambda console: _render(console, found))
    raise typer.Exit(1 if failed else 0)


def _render(console: Console, found: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in found)
    for finding in found:
        line = f"{finding.state:<6} {finding.name:<{width}}  {output.plain(finding.text)}"
        console.print(line, markup=False, soft_wrap=True)
        if finding.hint:
            console.print(f"       {'':<{width}}  {output.plain(finding.hint)}", markup=False, soft_wrap=True)

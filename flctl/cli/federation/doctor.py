"""`flctl federation doctor`: keys, certificates, rosters and members of a federation's folder."""

from __future__ import annotations

from dataclasses import asdict

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, open_enrolment
from flctl.cli.output import JsonFlag

__all__ = ["register"]

DOCTOR_HELP = """
Check the folder of a federation: all versions of the roster, keys, the hub's certificate, members that end soon.

One line a check. Exit code 1 if the hub could not serve, or members would refuse it.

Example:

    flctl federation doctor
"""
SIGNS = {"ok": "ok", "warn": "!", "fail": "X"}


def register(group: typer.Typer) -> None:
    """Adds `doctor` to the group."""
    group.command("doctor", help=DOCTOR_HELP)(doctor)


def doctor(home: Home = None, as_json: JsonFlag = False) -> None:
    """See DOCTOR_HELP."""
    from flctl.federation.identity.inspection import inspect

    findings = list(inspect(open_enrolment(home)))
    rows = [(finding.subject, SIGNS[finding.status], finding.detail) for finding in findings]
    data = {"findings": [asdict(finding) for finding in findings]}
    output.emit(
        "federation doctor",
        data,
        as_json=as_json,
        render=lambda console: output.table(console, ("what", "", "found"), rows, left=3),
    )
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)

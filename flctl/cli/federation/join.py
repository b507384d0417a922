"""`flctl federation join`: a coordinator joins with the operator's invite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.federation.joining import Joining, join_home
from flctl.cli.output import JsonFlag

__all__ = ["InviteLine", "Offline", "Out", "Proxy", "register"]

JOIN_HELP = """
Join a federation as a coordinator, who starts runs, with the line that the operator mailed.

Makes keys in this machine's folder, files a request, and prints their six words. The operator compares them and admits.

Examples:

    flctl federation join 'flctl-invite:...'

    flctl federation join - --offline < invite.txt
"""
InviteLine = Annotated[
    str, typer.Argument(metavar="LINE", help="The operator's line, in single quotes; - reads it from standard input.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Write the request to a file to mail, and connect to no hub.")]
Out = Annotated[Path | None, typer.Option("--out", help="The file of --offline; default: NAME.join.json.")]
Proxy = Annotated[
    str | None,
    typer.Option("--proxy", metavar="URL", help="CONNECT proxy, http://[USER:PASSWORD@]HOST:PORT; kept for later."),
]


def register(group: typer.Typer) -> None:
    """Adds `join` to the group."""
    group.command("join", help=JOIN_HELP)(join)


def join(
    line: InviteLine,
    offline: Offline = False,
    out: Out = None,
    proxy: Proxy = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="The coordinator's folder; default: $FLCTL_COORDINATOR_HOME, else the user's."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """See JOIN_HELP."""
    from flctl.federation.identity.homes import CoordinatorHome

    join_home(CoordinatorHome.at(home), "coordinator", Joining(line, offline, out, proxy), as_json=as_json)

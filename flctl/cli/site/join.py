"""`flctl site join`: a site joins with the operator's invite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.federation.join import InviteLine, Offline, Out, Proxy
from flctl.cli.federation.joining import Joining, join_home
from flctl.cli.output import JsonFlag

__all__ = ["register"]

JOIN_HELP = """
Join a federation as a site, with the line that the operator mailed.

Makes the site's keys in its folder (mode 0600; they never leave it), files a request, and prints the keys' six words.
The operator compares them by telephone and admits the site. The same line again files the same request.

Examples:

    flctl site join 'flctl-invite:...'

    flctl site join - --proxy http://proxy.example:3128 < invite.txt

    flctl site join 'flctl-invite:...' --offline --out st-marys.join.json
"""


def register(group: typer.Typer) -> None:
    """Adds `join` to the group."""
    group.command("join", help=JOIN_HELP)(join)


def join(
    line: InviteLine,
    offline: Offline = False,
    out: Out = None,
    proxy: Proxy = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="The site's folder; default: $FLCTL_SITE_HOME, else the user's.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """See JOIN_HELP."""
    from flctl.federation.identity.homes import SiteHome

    join_home(SiteHome.at(home), "site", Joining(line, offline, out, proxy), as_json=as_json)

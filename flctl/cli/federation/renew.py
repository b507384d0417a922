"""`flctl federation renew`: a new TLS certificate for the hub, and a new address."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, Key, address, open_enrolment, print_pairs
from flctl.cli.output import JsonFlag

__all__ = ["register"]

RENEW_HELP = """
Renew the hub's TLS certificate. With --url, also sign a version of the roster with the hub's new address.

The hub renews its certificate by itself while it runs, and sites and coordinators renew theirs: this command is for a
hub that was off for a month, or that moves. Sites learn a new address from the roster, so keep the old one until all
have polled.

Examples:

    flctl federation renew

    flctl federation renew --url https://new.example:8443
"""


def register(group: typer.Typer) -> None:
    """Adds `renew` to the group."""
    group.command("renew", help=RENEW_HELP)(renew)


def renew(
    url: Annotated[str | None, typer.Option("--url", help="The hub's new address; needs the operator's key.")] = None,
    key: Key = None,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """See RENEW_HELP."""
    from flctl.errors import ConfigError
    from flctl.federation.identity.certificates import last_moment, read_public
    from flctl.federation.identity.renewals import TLS_CERTIFICATE

    enrolment = open_enrolment(home)
    own = enrolment.roster().tls == "own"
    if url is not None:
        enrolment.move(address(url), enrolment.open_operator(key))
    elif not own:
        raise ConfigError(
            "this federation has no CA of its own", hint="Renew the hub's certificate where it was issued."
        )
    else:
        enrolment.renew_hub()
    roster = enrolment.roster()
    data: dict[str, Any] = {"url": roster.url, "version": roster.version, "expires": None}
    if own:
        data["expires"] = last_moment(read_public(enrolment.home.hub / TLS_CERTIFICATE)).isoformat()
    shown = {name: value for name, value in data.items() if value is not None}
    output.emit("federation renew", data, as_json=as_json, render=lambda console: print_pairs(console, shown))

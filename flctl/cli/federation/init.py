"""`flctl federation init`: a new federation at its operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.federation.members import Key, address, named, print_pairs
from flctl.cli.output import JsonFlag

__all__ = ["register"]

INIT_HELP = """
Make a federation: the operator's key, a CA, the hub's keys and TLS certificate, and an empty roster.

Prints the operator's fingerprint as six words, which sites compare when they join.

Examples:

    flctl federation init hospitals --url https://fl.example:8443

    flctl federation init hospitals --url https://fl.example --tls server --key stick/operator
"""


def register(group: typer.Typer) -> None:
    """Adds `init` to the group."""
    group.command("init", help=INIT_HELP)(init)


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the federation: letters, digits, hyphens.")],
    url: Annotated[str, typer.Option("--url", help="The hub's address as sites reach it: https://HOST:PORT.")],
    tls: Annotated[
        str,
        typer.Option(
            "--tls", help="own: a CA of the federation; house: your PKI; server: TLS ends at a proxy before the hub."
        ),
    ] = "own",
    key: Key = None,
    home: Annotated[Path | None, typer.Option("--home", help="The folder to create.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """See INIT_HELP."""
    from flctl.errors import ConfigError
    from flctl.federation.identity.enrolment import Enrolment, Founding, found
    from flctl.federation.identity.homes import FederationHome
    from flctl.federation.identity.roster import TLS

    if tls not in TLS:
        raise ConfigError(f"--tls {tls} is not known", hint=f"Choose one of {', '.join(TLS)}.")
    folder = FederationHome.at(home, named(name, "federation"))
    roster = found(folder, Founding(name, address(url), tls, key))
    words = Enrolment(folder).operator.words
    data = {
        "federation": name,
        "url": url,
        "tls": tls,
        "home": folder.path.as_posix(),
        "operator": roster.operator.hex(),
        "words": words,
        "ca_fingerprint": roster.ca_fingerprint,
        "digest": roster.digest,
    }
    shown = {"federation": name, "folder": folder.path, "operator's words": words}
    output.emit("federation init", data, as_json=as_json, render=lambda console: print_pairs(console, shown))
    if tls != "own":
        output.note(f"the hub's TLS certificate is yours to provide: {folder.hub / 'tls.pem'} and tls.key beside it")
    output.note("next: flctl federation invite SITE --days 7")

"""`flctl federation serve`: the hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, open_enrolment

if TYPE_CHECKING:
    from flctl.federation.hub.enrolling import FederationFolder
    from flctl.federation.hub.serve import Listening

__all__ = ["register"]

SERVE_HELP = """
Serve the hub: a post box for signed envelopes and sealed files. It reads no model and no update.

Runs until Ctrl-C or SIGTERM. Killed at any instant, it loses nothing that it has acknowledged.

Examples:

    flctl federation serve

    flctl federation serve --home hospitals --port 8443 --quota 100

    flctl federation serve --host 127.0.0.1 --port 8080     (TLS ends at a proxy on this machine)
"""
GIGABYTE = 10**9
TOKEN_MOST = 4096


def register(group: typer.Typer) -> None:
    """Adds `serve` to the group."""
    group.command("serve", help=SERVE_HELP)(serve)


def serve(
    home: Home = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default: all, with TLS.")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port; default: that of the hub's URL. 0: a free one."),
    ] = None,
    quota: Annotated[float, typer.Option("--quota", min=0.001, help="Most GB on disk for one run.")] = 50.0,
    metrics_token: Annotated[
        Path | None,
        typer.Option("--metrics-token", help="File with a token that opens /metrics; without it, loopback alone."),
    ] = None,
) -> None:
    """See SERVE_HELP."""
    require_aiohttp()
    from flctl.federation.hub.limits import HubLimits
    from flctl.federation.hub.program import HubOptions, run_hub

    enrolment = open_enrolment(home)
    limits = HubLimits(run_bytes=round(quota * GIGABYTE))
    token = _token(metrics_token) if metrics_token else None
    run_hub(enrolment.home, HubOptions(host, port, limits, token), _ready)
    output.note("the hub has ended")


def require_aiohttp() -> None:
    """Raises MissingExtraError unless aiohttp is installed."""
    if importlib.util.find_spec("aiohttp") is None:
        from flctl.errors import MissingExtraError

        raise MissingExtraError("the hub needs aiohttp, which is not installed", hint="pip install 'flctl[hub]'")


def _ready(where: Listening, members: FederationFolder) -> None:
    roster = members.roster()
    output.note(f"the hub of {roster.federation} listens on {where.host} port {where.port} ({roster.url})")
    if members.operator_key_here():
        output.warn(
            "the operator's key lies in the hub's folder: an intruder on this machine could admit members. Runs with "
            "active secure aggregation are refused. Move it to another machine or a stick."
        )


def _token(path: Path) -> str:
    from flctl.errors import ConfigError

    token = path.read_text(encoding="utf-8").strip()
    if not 16 <= len(token) <= TOKEN_MOST:
        raise ConfigError(f"{path} has a token of {len(token)} characters; expected at least 16")
    return token

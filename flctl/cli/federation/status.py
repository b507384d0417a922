"""`flctl federation status`: sites and store of a hub, for its operator on the hub's machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from flctl.cli import output
from flctl.cli.federation.members import Home, open_enrolment, print_pairs
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.identity.enrolment import Enrolment

__all__ = ["register"]

STATUS_HELP = """
Show the hub's state: sites with their last poll and work, requests to join, open tasks, and disk.

Runs on the hub's machine, where it signs with the hub's own key. Exit code 1 if the hub does not answer.

Examples:

    flctl federation status

    flctl federation status --home hospitals --json
"""
AWAY_SECONDS = 600.0
"""Seconds without a poll after which a site counts as away."""
STALLED_SECONDS = 300.0
MINUTE, HOUR = 60, 3600
GIGABYTE = 10**9


def register(group: typer.Typer) -> None:
    """Adds `status` to the group."""
    group.command("status", help=STATUS_HELP)(status)


def status(home: Home = None, as_json: JsonFlag = False) -> None:
    """See STATUS_HELP."""
    found = ask_hub(open_enrolment(home))
    output.emit("federation status", found, as_json=as_json, render=lambda console: _render(console, found))


def ask_hub(enrolment: Enrolment) -> dict[str, Any]:
    """Returns the state of the hub that serves the federation's folder.

    Raises ConfigError if none does, HubAwayError if it does not answer.
    """
    from flctl.errors import ConfigError
    from flctl.federation.identity.keys import Identity
    from flctl.federation.transport.connection import HubAddress
    from flctl.federation.transport.line import Line
    from flctl.federation.transport.retries import Pace
    from flctl.federation.transport.serving import HUB, serving_at

    roster, folder = enrolment.roster(), enrolment.home.hub
    where = serving_at(folder)
    if where is None:
        raise ConfigError(f"no hub serves {enrolment.home.path}", hint="Start it with: flctl federation serve")
    at, secure = where
    url = roster.url if secure else f"http://{at}"
    authority = folder / "ca.pem" if roster.tls == "own" else None
    address = HubAddress(url, roster.federation, authority, at=at)
    line = Line(address, Identity.open(folder), HUB, lambda sentence: None, Pace(least=0.2, most=1.0, give_up=3.0))
    try:
        return dict(line.ask("GET", "/1/status").value)
    finally:
        line.close()


def _render(console: Console, found: Mapping[str, Any]) -> None:
    rows = [(name, *_site(state)) for name, state in found["sites"].items()]
    output.table(console, ("site", "state", "last poll", "work"), rows, left=4)
    numbers = found["numbers"]
    pairs = {
        "federation": found["federation"],
        "roster": f"version {found['roster']['version']}",
        "coordinators": ", ".join(found["coordinators"]) or "-",
        "waiting to join": ", ".join(found["waiting_to_join"]) or "-",
        "open tasks": f"{numbers['open_tasks']:,.0f}",
        "blobs": f"{numbers['blob_bytes'] / GIGABYTE:,.2f} GB ({numbers['disk_free_bytes'] / GIGABYTE:,.1f} GB free)",
    }
    print_pairs(console, {name: output.plain(str(value)) for name, value in pairs.items()})


def _site(state: Mapping[str, Any]) -> tuple[str, str, str]:
    """State in words, time since the last poll, and work in progress of a site."""
    seen, advanced, work = state["seen"], state["advanced"], state["progress"]
    if seen is None:
        return "not seen since the hub started", "-", "-"
    if seen > AWAY_SECONDS:
        return "away", _ago(seen), "-"
    if work is None:
        return "waiting", _ago(seen), "-"
    state_word = "stalled" if advanced is not None and advanced > STALLED_SECONDS else "at work"
    done = f"step {work['step']:,} of {work['of']:,}" if work["of"] else f"{work['moved']:,} bytes moved"
    return state_word, _ago(seen), done


def _ago(seconds: float) -> str:
    if seconds < MINUTE:
        return f"{seconds:.0f} s ago"
    return f"{seconds / MINUTE:.0f} min ago" if seconds < HOUR else f"{seconds / HOUR:.0f} h ago"

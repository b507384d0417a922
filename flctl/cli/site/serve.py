"""`flctl site serve`: the site's agent."""

from __future__ import annotations

import typer

from flctl.cli.site.agents import SiteHomeFolder, opened

__all__ = ["register"]

SERVE_HELP = """
Answer the hub's orders: plans are kept for review, approved runs train, and only what was approved leaves.

All connections go out from here. Runs until Ctrl-C or SIGTERM; killed at any instant, it goes on where it was.

Examples:

    flctl site serve

    flctl site unit > /etc/systemd/system/flctl-site.service     (as a service)
"""


def register(group: typer.Typer) -> None:
    """Adds `serve` to the group."""
    group.command("serve", help=SERVE_HELP)(serve)


def serve(home: SiteHomeFolder = None) -> None:
    """See SERVE_HELP."""
    import signal
    from types import FrameType

    from flctl.cli import output

    with opened(home, patient=True) as agent:

        def end(number: int, frame: FrameType | None) -> None:
            agent.stop()

        former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        output.note(f"{agent.member.name} answers {agent.member.membership.federation}")
        try:
            agent.serve()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
    output.note("the agent has ended")

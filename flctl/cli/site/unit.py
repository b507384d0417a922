"""`flctl site unit`: a systemd unit for the site's agent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.site.agents import SiteHomeFolder

__all__ = ["register"]

UNIT = """\
# systemd unit of a site's agent. It needs no root: put it into ~/.config/systemd/user/flctl-site.service and run
#   systemctl --user enable --now flctl-site
# or, for a system service, into /etc/systemd/system with `User=` set.
[Unit]
Description=flctl site agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command} site serve --home {home}
Restart=always
RestartSec=10
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={home}

[Install]
WantedBy=default.target
"""


def register(group: typer.Typer) -> None:
    """Adds `unit` to the group."""
    group.command("unit")(unit)


def unit(home: SiteHomeFolder = None, as_json: JsonFlag = False) -> None:
    """Print a systemd unit that keeps the agent running.

    Example: flctl site unit > ~/.config/systemd/user/flctl-site.service
    """
    from flctl.errors import command_line
    from flctl.federation.identity.homes import SiteHome

    program = shutil.which("flctl")
    command = command_line(Path(program)) if program else command_line(sys.executable, "-m", "flctl")
    text = UNIT.format(command=command, home=command_line(SiteHome.at(home).path.resolve()))
    output.emit("site unit", {"unit": text}, as_json=as_json, render=lambda console: output.write_line(text.rstrip()))

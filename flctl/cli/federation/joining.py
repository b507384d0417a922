"""Joining a federation from the command line: `flctl site join` and `flctl federation join`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.cli import output
from flctl.errors import ConfigError, FlctlError

if TYPE_CHECKING:
    from flctl.federation.identity.homes import MemberHome
    from flctl.federation.identity.invites import Invite, Role

__all__ = ["Joining", "join_home"]

COMMANDS = {"site": "flctl site join", "coordinator": "flctl federation join"}


@dataclass(frozen=True)
class Joining:
    """Options of a command that joins: the invite's line (`-`: standard input), and the way of the request.

    `offline`: the request is written to `out` (NAME.join.json by default) instead of being sent to the hub. `proxy`:
    the CONNECT proxy, kept for later connections.
    """

    line: str
    offline: bool
    out: Path | None
    proxy: str | None


def join_home(home: MemberHome, role: Role, joining: Joining, *, as_json: bool) -> None:
    """Makes keys in `home`, and files the request to join or writes it to a file.

    Raises ConfigError for a line that is no invite, or one for another role.
    """
    from flctl.federation.identity.joining import join

    invite = _invite(joining.line, role)
    if joining.out is not None and not joining.offline:
        raise ConfigError("--out names the file of --offline", hint="Add --offline, or leave --out out.")
    identity, request = join(home, invite)
    file = _send(home, invite, joining, request)
    data: dict[str, Any] = {
        "federation": invite.federation,
        "name": invite.name,
        "role": role,
        "home": home.path.as_posix(),
        "words": identity.public.words,
        "operator_words": invite.operator.words,
        "request": None if file is None else file.as_posix(),
    }
    shown = {role: f"{invite.name}, in the federation {invite.federation}", "own words": identity.public.words}
    shown["operator's words"] = invite.operator.words

    from flctl.cli.federation.members import print_pairs

    command = COMMANDS[role].removeprefix("flctl ")
    output.emit(command, data, as_json=as_json, render=lambda console: print_pairs(console, shown))
    if file is not None:
        output.note(f"mail {file} to the operator; it holds no secret")
    output.note("next: read your words to the operator by telephone, and hear theirs; then the operator admits you")


def _invite(line: str, role: Role) -> Invite:
    from flctl.federation.identity.failures import UntrustedError
    from flctl.federation.identity.invites import LONGEST_INVITE, Invite

    try:
        invite = Invite.read(sys.stdin.read(LONGEST_INVITE + 1) if line == "-" else line)
    except UntrustedError as error:
        raise ConfigError(error.message, hint=error.hint) from error
    if invite.role != role:
        raise ConfigError(
            f"the invite is for a {invite.role}, and this command joins as a {role}",
            hint=f"Run: {COMMANDS[invite.role]} LINE",
        )
    return invite


def _send(home: MemberHome, invite: Invite, joining: Joining, request: bytes) -> Path | None:
    """Sends the request to the hub, or writes it; returns the file. Raises FlctlError if the hub cannot be reached."""
    from flctl.atomic import write_file

    if joining.proxy is not None:
        from flctl.federation.addresses import keep_proxy

        keep_proxy(home.path, joining.proxy)
    if joining.offline:
        file = joining.out or Path(f"{invite.name}.join.json")
        write_file(file, request)
        return file
    from flctl.federation.addresses import hub_address
    from flctl.federation.identity.joining import Membership
    from flctl.federation.transport.joining_calls import file_request
    from flctl.federation.transport.retries import HubAwayError

    try:
        file_request(hub_address(home, Membership.open(home)), request)
    except (HubAwayError, OSError) as error:
        raise FlctlError(
            f"the keys are made, and the hub at {invite.url} was not reached: {error}",
            hint="Run it again; with --proxy URL if a proxy is needed, or --offline, which writes a file to mail.",
        ) from error
    return None

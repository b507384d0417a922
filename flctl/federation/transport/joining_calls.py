"""Requests to the hub of those who are not members yet, and of the operator: what they bring is signed itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.line import Line
from flctl.federation.transport.retries import Pace

__all__ = ["file_request", "publish_roster", "request_certificate"]

ONCE = Pace(least=0.5, most=2.0, give_up=5.0)
"""People wait for these answers: a hub that cannot be reached is reported after some seconds."""


def file_request(address: HubAddress, request: bytes, pace: Pace = ONCE) -> None:
    """Files a request to join. The same request again changes nothing.

    Raises Refused (`invite`) if the invite was used, has expired, or is for another name; HubAwayError.
    """
    _post(address, "/1/joins", request, pace)


def request_certificate(address: HubAddress, request: bytes, pace: Pace = ONCE) -> str:
    """Returns a TLS certificate in PEM for a member's signed request. Raises Refused, HubAwayError."""
    return str(_post(address, "/1/certificates", request, pace)["certificate"])


def publish_roster(address: HubAddress, roster: bytes, pace: Pace = ONCE) -> int:
    """Brings a roster that the operator signed elsewhere to the hub; returns the hub's version.

    Raises Refused (`roster-rollback`, `roster-equivocation`, `roster-operator`), HubAwayError.
    """
    return int(_post(address, "/1/rosters", roster, pace)["version"])


def _post(address: HubAddress, path: str, body: bytes, pace: Pace) -> dict[str, Any]:
    bare = replace(address, certificate=None, key=None)  # an expired certificate would end the handshake
    line = Line(bare, None, "", lambda sentence: None, pace)
    try:
        value = line.ask("POST", path, body).value
    finally:
        line.close()
    return value if isinstance(value, dict) else {}

"""Limits of the hub: sizes, times and rates, and the checks of a request before its body is read."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from aiohttp import web

from flctl.federation.reasons import Reason, Refused

__all__ = ["HubLimits", "Rate", "read_body", "refuse_tricks"]


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds in bytes, seconds and numbers. Nothing above a size is read, and nothing slower than a rate is waited for.

    `run_bytes` is the quota of one run, `free_bytes` stay free on the disk for the database.
    """

    run_bytes: int = 50 << 30
    blob_bytes: int = 8 << 30
    free_bytes: int = 256 << 20
    small_body: int = 64 << 10
    post_body: int = 2 << 20
    roster_body: int = 8 << 20
    wait: float = 25.0
    body_grace: float = 30.0
    body_rate: int = 1000
    stall: float = 60.0
    first_request: float = 20.0
    sockets: int = 2048
    notes: int = 10_000
    requests_a_minute: int = 6000
    joins_a_minute: int = 30

    def public(self) -> dict[str, int]:
        """Limits that callers have to know."""
        return {"blob_bytes": self.blob_bytes, "envelope_bytes": self.small_body, "run_bytes": self.run_bytes}


class Rate:
    """Counts events by key in windows of a minute; the least recent keys are forgotten beyond `keys`."""

    def __init__(self, most: int, keys: int = 4096) -> None:
        self._most, self._keys = most, keys
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, key: str) -> None:
        """Counts one event. Raises Refused (`door-rate`) above the limit."""
        now = time.monotonic()
        begun, count = self._counts.pop(key, (now, 0))
        if now - begun >= 60:
            begun, count = now, 0
        self._counts[key] = (begun, count + 1)
        if len(self._counts) > self._keys:
            self._counts.popitem(last=False)
        if count >= self._most:
            raise Refused(Reason.DOOR_RATE)


def refuse_tricks(request: web.BaseRequest) -> None:
    """Refuses bodies without a known size, compressed bodies, and headers that a proxy may read in another way."""
    headers = request.headers
    if "Transfer-Encoding" in headers or "Content-Encoding" in headers or "Upgrade" in headers or "Expect" in headers:
        raise Refused(Reason.REQUEST_FORM, "A request has a plain body whose length its header gives.")
    lengths = headers.getall("Content-Length", [])
    if len(lengths) > 1 or (request.method in ("PUT", "POST") and not (lengths and lengths[0].isdecimal())):
        raise Refused(Reason.REQUEST_FORM, "A request with a body needs one Content-Length header.")
    if any(len(headers.getall(name, [])) > 1 for name in ("Authorization", "Range", "Content-Range", "Host")):
        raise Refused(Reason.REQUEST_FORM, "A request has a header twice.")


async def read_body(request: web.Request, most: int, limits: HubLimits) -> bytes:
    """Reads a small body whole. Raises Refused (`envelope-size`) before reading one that is declared larger than
    `most`, TimeoutError for one that is slower than the limits."""
    length = request.content_length or 0
    if length > most:
        raise Refused(Reason.ENVELOPE_SIZE, f"The body has {length} bytes; at most {most} are read.")
    if not length:
        return b""
    try:
        async with asyncio.timeout(limits.body_grace + length / limits.body_rate):
            return await request.content.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise Refused(Reason.REQUEST_FORM, "The body ended early.") from error

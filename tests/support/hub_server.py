"""A hub that serves on a free port of the loopback in a thread of its own, and clients of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flctl.federation.hub.limits import HubLimits
from flctl.federation.hub.post_box import PostBox
from flctl.federation.hub.serve import TlsFiles, listening, server_context
from flctl.federation.identity.roster import Roster
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.request_signing import SignedRequest, authorization, body_digest, new_nonce
from flctl.federation.transport.retries import Pace
from support.hub_member import FEDERATION, federation

QUICK = Pace(least=0.01, most=0.05, give_up=5.0)


class HubServer:
    """A hub in a thread. `stop` ends it; `start` serves the same folder again, on the same port if it can."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: HubLimits | None = None,
        tls: TlsFiles | None = None,
        members: Any = None,
        box_members: Any = None,
        **options: Any,
    ) -> None:
        self.folder, self.limits, self.tls, self.options = folder, limits or HubLimits(), tls, options
        self.members = members or federation()
        self.box_members = box_members or self
        self.roster_now = self.members.roster
        self.port = 0
        self.box: PostBox
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        ready, failed = threading.Event(), []

        def main() -> None:
            try:
                asyncio.run(self._serve(ready))
            except BaseException as error:
                failed.append(error)
                ready.set()

        self._thread = threading.Thread(target=main, name="hub", daemon=True)
        self._thread.start()
        ready.wait(10)
        if failed:
            raise failed[0]

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(20)
            self._thread = None

    def address(self, **fields: Any) -> HubAddress:
        return HubAddress(self.url, FEDERATION, **fields)

    def client(
        self, name: str, *, address: HubAddress | None = None, signer: str | None = None, **options: Any
    ) -> HubClient:
        identity = self.members.identities[signer or name]
        return HubClient(address or self.address(), identity, name, pace=options.pop("pace", QUICK), **options)

    # the members of the federation, as the hub asks for them

    def roster(self) -> Roster:
        return self.roster_now

    def operator_key_here(self) -> bool:
        return False

    def waiting(self) -> list[str]:
        return []

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.box = PostBox(
            self.folder,
            self.box_members,
            self.members.identities["hub"],
            limits=self.limits,
            certificates=bool(self.tls and self.tls.authority),
            **self.options,
        )
        context = server_context(self.tls) if self.tls else None
        try:
            async with listening(self.box, "127.0.0.1", self.port, context) as where:
                self.port = where.port
                ready.set()
                await self._end.wait()
        finally:
            self.box.close()


@dataclass(frozen=True)
class Raw:
    """An answer as it came: status, reason code, sentence, headers and body."""

    status: int
    reason: str
    sentence: str
    headers: dict[str, str]
    body: bytes


def raw(
    hub: HubServer,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    digest: str | None = None,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> Raw:
    """Sends one request, as `request` makes it, with a body, and reads its answer."""
    signed = body_digest(body) if digest is None else digest
    lengths = {"Content-Length": str(len(body))} if body or method != "GET" else {}
    headers = lengths | options.pop("headers", {})
    text = request(hub, method, path, digest=signed, headers=headers, **options)
    return exchange(hub, text + body, context)


def request(
    hub: HubServer,
    method: str,
    path: str,
    *,
    digest: str,
    headers: dict[str, str],
    name: str = "st-marys",
    signer: str | None = None,
    **signed: Any,
) -> bytes:
    """The head of a request, signed unless `headers` has an Authorization, with parts of what is signed changed."""
    values = {
        "federation": FEDERATION,
        "name": name,
        "method": method,
        "path": path,
        "body": digest,
        "time": int(time.time()),
        "nonce": new_nonce(),
        "epoch": hub.box.door.epoch,
    }
    signed = {{"signed_path": "path", "method_": "method"}.get(key, key): value for key, value in signed.items()}
    header = authorization(hub.members.identities[signer or name], SignedRequest(**values | signed))
    lines = {"Host": "hub", "Connection": "close", "Authorization": header} | headers
    text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    return text.encode("latin-1") + b"\r\n"


def exchange(hub: HubServer, text: bytes, context: ssl.SSLContext | None = None) -> Raw:
    """Sends bytes on a new connection and reads the first answer until the hub closes."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as plain:
        line = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        line.sendall(text)
        response = http.client.HTTPResponse(line)
        response.begin()
        content = response.read()
    try:
        value = json.loads(content)
    except ValueError:
        value = {}
    value = value if isinstance(value, dict) else {}
    return Raw(
        response.status, value.get("reason", ""), value.get("sentence", ""), dict(response.headers.items()), content
    )

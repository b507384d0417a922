"""Serving the hub: TLS, limits on sockets, and an end that lets requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from flctl.errors import ConfigError
from flctl.federation.hub.app import build_app
from flctl.federation.hub.limits import HubLimits
from flctl.federation.hub.post_box import PostBox

__all__ = ["Listening", "TlsFiles", "listening", "server_context"]

END_SECONDS = 5.0
HANDSHAKE_SECONDS = 10.0
SWEEP_SECONDS = 1.0
PRUNE_SECONDS = 3600.0
KEPT_SECONDS = 30 * 86400.0
"""Runs whose last order expired that long ago are removed."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of the hub's TLS: its certificate and key, and the authority of members' certificates if these are asked
    for (mutual TLS)."""

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """A hub that serves: its host and port."""

    host: str
    port: int


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Returns the context of the hub. With mutual TLS a certificate is optional in the handshake, because joining needs
    none, and the door asks for it in every other request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    if files.authority is not None:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


@contextlib.asynccontextmanager
async def listening(
    box: PostBox,
    host: str,
    port: int,
    context: ssl.SSLContext | None = None,
    metrics_token: str | None = None,
) -> AsyncIterator[Listening]:
    """Serves the hub inside the block; port 0 takes a free one. Requests in progress may end for some seconds.

    Raises ConfigError if the port is in use or may not be used.
    """
    runner = web.AppRunner(
        build_app(box, metrics_token, open_metrics=context is not None),
        access_log=None,
        logger=_logger(),
        handle_signals=False,
        handler_cancellation=True,
        auto_decompress=False,
        keepalive_timeout=75.0,
        shutdown_timeout=END_SECONDS,
        max_line_size=8190,
        max_field_size=8190,
    )
    await runner.setup()
    guard = Sockets(box.limits)
    try:
        bound = _bound(host, port)
        server = await asyncio.get_running_loop().create_server(
            guard.watched(runner.server),
            sock=bound,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
        )
        tasks = [asyncio.create_task(guard.sweep()), asyncio.create_task(_prune(box))]
        try:
            yield Listening(*bound.getsockname()[:2])
        finally:
            for task in tasks:
                task.cancel()
            server.close()
            box.waiting.wake_all()
            await runner.cleanup()
    finally:
        await runner.cleanup()


class Sockets:
    """Limits on sockets: their number, and the time to a socket's first complete request.

    aiohttp closes connections that are idle after a request; sockets that never send one are closed here. Beyond the
    number, the oldest idle one makes room: clients open another when they need it.
    """

    def __init__(self, limits: HubLimits) -> None:
        self._limits = limits
        self._born: dict[Any, float] = {}
        self._connected: set[Any] = set()

    def watched(self, factory: Any) -> Callable[[], Any]:
        """Wraps a factory of protocols."""

        def make() -> Any:
            protocol = factory()
            self._born[protocol] = time.monotonic()
            if len(self._born) > self._limits.sockets:
                self._shed()
            return protocol

        return make

    async def sweep(self) -> None:
        """Closes sockets without a first request, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for protocol, born in list(self._born.items()):
                if protocol.transport is not None:
                    self._connected.add(protocol)
                    if now - born > self._limits.first_request and protocol._request_count == 0 and _idle(protocol):
                        _abort(protocol)
                elif protocol in self._connected or now - born > 2 * HANDSHAKE_SECONDS:  # closed, or no TLS came about
                    self._forget(protocol)

    def _shed(self) -> None:
        """Closes the oldest idle socket, to make room."""
        for protocol in list(self._born):
            if protocol.transport is not None and _idle(protocol):
                _abort(protocol)
                self._forget(protocol)
                return

    def _forget(self, protocol: Any) -> None:
        self._born.pop(protocol, None)
        self._connected.discard(protocol)


def _idle(protocol: Any) -> bool:
    """True if a socket has no request in progress, for which aiohttp has no public name."""
    return protocol._current_request is None


def _abort(protocol: Any) -> None:
    protocol.force_close()
    if protocol.transport is not None:
        protocol.transport.abort()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"the hub cannot listen on {host} port {port}: {error.strerror}",
            hint="Choose another with --port, or end the program that uses it.",
        ) from error
    bound.setblocking(False)
    return bound


def _logger() -> logging.Logger:
    """The log of the hub's own failures. Requests that are no HTTP leave no line: anyone could fill the disk."""
    logger = logging.getLogger("flctl.hub")
    if not logger.filters:
        logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


async def _prune(box: PostBox) -> None:
    """Removes runs that expired long ago, every hour."""
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        await box.dropped(box.store.expire, box.now() - KEPT_SECONDS)

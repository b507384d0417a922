"""The hub as a program: its folder, its TLS files, its signals, and the file that says where it listens."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from flctl.errors import ConfigError, FlctlError
from flctl.federation.hub.enrolling import FederationFolder
from flctl.federation.hub.limits import HubLimits
from flctl.federation.hub.post_box import PostBox
from flctl.federation.hub.serve import Listening, TlsFiles, listening, server_context
from flctl.federation.identity.certificates import needs_renewal
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.renewals import TLS_CERTIFICATE, TLS_KEY
from flctl.federation.identity.roster import Roster
from flctl.federation.transport.serving import forget_serving, note_serving

__all__ = ["HubOptions", "run_hub"]

MEMBERS_CA = "members-ca.pem"
"""Authority of members' certificates from a house PKI; without the file, members need none."""
PLAIN_PORT = 8080
RENEW_SECONDS = 60.0
OPEN_FILES = 16_384


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Options of the command. Without a host or port, those of the roster's URL and way of TLS are taken."""

    host: str | None = None
    port: int | None = None
    limits: HubLimits = field(default_factory=HubLimits)
    metrics_token: str | None = None


def run_hub(home: FederationHome, options: HubOptions, ready: Callable[[Listening, FederationFolder], None]) -> None:
    """Serves until Ctrl-C or SIGTERM; requests in progress then have some seconds to end.

    `ready` is called once the hub listens. Raises ConfigError if another hub serves the folder, if the port is in use,
    or if TLS files are missing.
    """
    if os.name == "nt":
        raise ConfigError("the hub does not run on Windows", hint="Run it on Linux or macOS; sites may run on Windows.")
    members = FederationFolder(home)
    tls = _tls_files(home, members.roster())
    host, port = _address(options, members.roster(), tls)
    _allow_sockets()
    with _alone(home), _signals() as stopping:
        asyncio.run(_main(home, options, members, (host, port, tls), (ready, stopping)))


async def _main(
    home: FederationHome,
    options: HubOptions,
    members: FederationFolder,
    where: tuple[str, int, TlsFiles | None],
    told: tuple[Callable[[Listening, FederationFolder], None], Stopping],
) -> None:
    host, port, tls = where
    ready, stopping = told
    stopping.begin()
    context = server_context(tls) if tls else None
    certificates = tls is not None and tls.authority is not None
    identity = Identity.open(home.hub)
    box = PostBox(home.hub, members, identity, limits=options.limits, certificates=certificates)
    try:
        async with listening(box, host, port, context, options.metrics_token) as found:
            renewing = asyncio.create_task(_renew(members, tls, context))
            note_serving(home.hub, found.host, found.port, tls=tls is not None)
            try:
                ready(found, members)
                await stopping.wait()
            finally:
                renewing.cancel()
                forget_serving(home.hub)
    finally:
        box.close()


class Stopping:
    """The request to stop, which a signal makes; a second signal ends the program at once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._seen = 0

    def begin(self) -> None:
        """Connects the signals to the running event loop."""
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()

    async def wait(self) -> None:
        """Waits for a signal."""
        if self._event is not None:
            await self._event.wait()

    def receive(self, number: int, frame: object) -> None:
        """Handles a signal."""
        self._seen += 1
        if self._loop is None or self._event is None or self._seen > 1:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._event.set)


def _allow_sockets() -> None:
    """Raises the process's limit of open files, often 1,024, which each connected site and transfer counts in."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limit on Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _signals() -> Iterator[Stopping]:
    stopping = Stopping()
    former = {number: signal.signal(number, stopping.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone(home: FederationHome) -> Iterator[None]:
    """Holds the folder's lock. Raises ConfigError if another hub has it."""
    lock = FileLock(home.hub / "hub.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another hub serves {home.path}", hint="One hub serves a folder: end the other.") from error
    try:
        yield
    finally:
        lock.release()


def _tls_files(home: FederationHome, roster: Roster) -> TlsFiles | None:
    """The hub's TLS files; None if TLS ends at a terminator before the hub. Raises ConfigError if they are missing."""
    certificate, key = home.hub / TLS_CERTIFICATE, home.hub / TLS_KEY
    if not (certificate.exists() and key.exists()):
        if roster.tls == "server":
            return None
        raise ConfigError(
            f"the hub's TLS certificate is missing: {certificate}",
            hint="With a CA of the federation's own: flctl federation renew. Otherwise put your PKI's files there.",
        )
    authority = home.hub / (MEMBERS_CA if roster.tls == "house" else "ca.pem")
    return TlsFiles(certificate, key, authority if roster.tls != "server" and authority.exists() else None)


def _address(options: HubOptions, roster: Roster, tls: TlsFiles | None) -> tuple[str, int]:
    """Host and port to listen on. Raises ConfigError for a plain hub that other machines could reach."""
    if tls is not None:
        parts = urlsplit(roster.url)
        port = options.port if options.port is not None else parts.port or 443
        return options.host or "0.0.0.0", port  # noqa: S104 - sites come from everywhere
    host = options.host or "127.0.0.1"
    if host != "localhost" and not _is_loopback(host):
        raise ConfigError(
            f"without TLS the hub does not listen on {host}: requests would cross the network in the clear",
            hint=f"Let the terminator connect to 127.0.0.1, or put {TLS_CERTIFICATE} and {TLS_KEY} into hub/.",
        )
    return host, options.port if options.port is not None else PLAIN_PORT


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _renew(members: FederationFolder, tls: TlsFiles | None, context: ssl.SSLContext | None) -> None:
    """Renews the hub's own certificate in time, and loads one that changed, without a restart."""
    if tls is None or context is None:
        return
    loaded = tls.certificate.stat().st_mtime_ns
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        with contextlib.suppress(FlctlError, OSError, ssl.SSLError):  # tried again a minute later
            if members.roster().tls == "own" and needs_renewal(tls.certificate):
                await asyncio.to_thread(members.enrolment.renew_hub)
            if (changed := tls.certificate.stat().st_mtime_ns) != loaded:
                context.load_cert_chain(tls.certificate, tls.key)
                loaded = changed

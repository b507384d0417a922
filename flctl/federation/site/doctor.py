"""Examination of a site: each thing that it needs, as one finding. Nothing is changed, and no key is sent."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from flctl.errors import FlctlError
from flctl.federation.addresses import hub_address, kept_proxy
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.renewals import TLS_CERTIFICATE
from flctl.federation.member import MOST_CLOCK_SECONDS
from flctl.federation.site.settings import SiteSettings, read_settings
from flctl.federation.transport.connection import HubAddress, certificate_issuer, open_connection
from flctl.federation.transport.hub_client import Hello, HubClient
from flctl.federation.transport.retries import Pace, explained
from flctl.partition.store import Partition

__all__ = ["Finding", "examine"]

ONCE = Pace(least=0.2, most=0.5, give_up=2.0)
FREE_BYTES = 1 << 30
PROBE_SECONDS = 20.0
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined: its name, its state, what was found, and what to do about it."""

    name: str
    state: Literal["ok", "note", "failed"]
    text: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)


def examine(home: SiteHome) -> Iterator[Finding]:
    """Yields findings about a site's home, its way to the hub, its data and its machine, in this order."""
    yield _guarded("home", lambda: _home(home))
    yield _guarded("keys", lambda: Finding("keys", "ok", f"words: {Identity.open(home.identity).public.words}"))
    try:
        membership, settings = Membership.open(home), read_settings(home.path)
        proxy = kept_proxy(home.path)
    except FlctlError as error:
        yield _failed("membership", error)
    else:
        yield Finding("membership", "ok", f"{membership.name} in {membership.federation}, hub {membership.url}")
        yield from _network(home, membership, proxy)
        yield _guarded("worker network", lambda: _confinement(proxy or membership.url, settings))
    yield _guarded("data", lambda: _data(home))
    yield _guarded("policy", lambda: _policy(home))
    yield _guarded("disk", lambda: _disk(home))
    yield _guarded("versions", _versions)


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except FlctlError as error:
        return _failed(name, error)
    except OSError as error:
        return Finding(name, "failed", error.strerror or str(error))


def _failed(name: str, error: FlctlError) -> Finding:
    return Finding(name, "failed", error.message, error.hint or "")


def _home(home: SiteHome) -> Finding:
    if not home.path.is_dir():
        return Finding("home", "failed", f"{home.path} does not exist", "Join a federation: flctl site join LINE")
    mode = stat.S_IMODE(home.path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        return Finding("home", "note", f"{home.path} has mode {mode:03o}", f"Run chmod 700 {home.path}")
    return Finding("home", "ok", str(home.path))


def _network(home: SiteHome, membership: Membership, proxy: str | None) -> Iterator[Finding]:
    yield _proxy(proxy)
    yield _guarded("name resolution", lambda: _resolved(proxy or membership.url))
    try:
        address = hub_address(home, membership)
        yield _tls(address)
    except (FlctlError, OSError) as error:
        yield Finding("tls", "failed", error.message if isinstance(error, FlctlError) else explained(error))
        return
    if address.authority is not None:
        there = (home.identity / TLS_CERTIFICATE).exists()
        text = "a certificate of the federation's authority is here" if there else "none yet"
        hint = "" if there else "It comes with the first `flctl site serve` after the operator has admitted this site."
        yield Finding("certificate", "ok" if there else "note", text, hint)
    yield from _greeting(home, membership, address)


def _proxy(proxy: str | None) -> Finding:
    named = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    if proxy:
        parts = urlsplit(proxy)
        return Finding("proxy", "ok", f"{parts.hostname} port {parts.port or 3128}")
    if named:
        hint = "If the hub is reached through it, join again: flctl site join LINE --proxy http://HOST:PORT"
        return Finding("proxy", "note", f"none is set; {', '.join(named)} of the environment is not used", hint)
    return Finding("proxy", "ok", "none")


def _resolved(url: str) -> Finding:
    parts = urlsplit(url)
    found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    return Finding("name resolution", "ok", f"{parts.hostname} is {found[0][4][0]}")


def _tls(address: HubAddress) -> Finding:
    try:
        open_connection(address).close()
    except OSError as error:
        issuer = certificate_issuer(address) if address.secure else None
        hint = f"The certificate is signed by {issuer}: a proxy may open TLS." if issuer else ""
        return Finding("tls", "failed", explained(error), hint)
    return Finding("tls", "ok", f"{address.host} port {address.port}")


def _greeting(home: SiteHome, membership: Membership, address: HubAddress) -> Iterator[Finding]:
    try:
        with HubClient(address, Identity.open(home.identity), membership.name, pace=ONCE) as client:
            hello = client.hello()
    except FlctlError as error:
        yield _failed("hub", error)
        return
    yield Finding("hub", "ok", f"flctl {hello.version}")
    yield _clock(hello)
    yield _guarded("roster", lambda: _roster(membership, hello))


def _clock(hello: Hello) -> Finding:
    apart = hello.time - time.time()
    state: Literal["ok", "failed"] = "ok" if abs(apart) <= MOST_CLOCK_SECONDS else "failed"
    hint = "" if state == "ok" else "Set the clock, for example with chrony or systemd-timesyncd."
    return Finding("clock", state, f"{abs(apart):.0f} s from the hub's", hint)


def _roster(membership: Membership, hello: Hello) -> Finding:
    from flctl.federation.identity.roster import Roster

    roster = Roster.read(hello.roster, membership.operator.signing)
    member = roster.site(membership.name)
    return Finding("roster", "ok", f"version {roster.version}; a member until {member.until}")


def _confinement(url: str, settings: SiteSettings) -> Finding:
    """Looks whether a confined process reaches the hub's port, or that of the proxy."""
    parts = urlsplit(url)
    command = [*settings.worker.prefix, sys.executable, "-c", PROBE, parts.hostname or "", str(parts.port or 443)]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("worker network", "failed", f"the worker's prefix does not run: {type(error).__name__}")
    if done.returncode == 0:
        hint = "Confine it: worker.prefix in site.yaml, for example [bwrap, --unshare-net, --dev-bind, /, /]"
        return Finding("worker network", "note", "yes: model code can open connections", hint)
    return Finding("worker network", "ok", "no")


def _data(home: SiteHome) -> Finding:
    if not home.data.exists():
        return Finding("data", "note", "none packed", "flctl site data FILE --schema SCHEMA")
    partition = Partition.open(home.data)
    partition.verify_digests()
    train, test = partition.counts.sum(axis=0).tolist()
    return Finding("data", "ok", f"{train:,} training rows, {test:,} test rows, digests hold")


def _policy(home: SiteHome) -> Finding:
    if not home.policy.exists():
        return Finding("policy", "note", "none: nothing is allowed", "flctl site policy")
    return Finding("policy", "ok", str(home.policy))


def _disk(home: SiteHome) -> Finding:
    there = next(path for path in (home.path, *home.path.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free"
    return Finding("disk", "ok" if free >= FREE_BYTES else "note", text)


def _versions() -> Finding:
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("flctl", "torch", "numpy", "cryptography")]
    return Finding("versions", "ok", f"python {sys.version.split()[0]}, {', '.join(found)}")

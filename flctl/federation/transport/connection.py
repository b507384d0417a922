"""Connections to the hub: its address, TLS with the federation's own authority, and CONNECT proxies."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flctl.errors import ConfigError, IntegrityError

__all__ = ["HubAddress", "certificate_issuer", "fetch_authority", "open_connection"]

CONNECT_SECONDS = 20.0
READ_BYTES = 1 << 16
_PORTS = {"http": 80, "https": 443}
AUTHORITY_PATH = "/1/authority"
MOST_AUTHORITY = 64 << 10


@dataclass(frozen=True, slots=True)
class HubAddress:
    """The address of a hub, and the files that a connection to it needs.

    `authority` is the PEM file of the authority that signed the hub's certificate; None for those of the system.
    `certificate` and `key` are the caller's own. `at` is the host:port to connect to if it is not the URL's; the
    certificate has to name the URL's host all the same. `proxy` is `http://[user:password@]host:port`; it is
    never taken from the environment.
    """

    url: str
    federation: str
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    at: str | None = None
    proxy: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _split(self.url, "the hub's address", schemes=("https", "http"))
        if self.proxy:
            _split(self.proxy, "the proxy", schemes=("http",))

    @property
    def secure(self) -> bool:
        """True for https."""
        return self.url.startswith("https:")

    @property
    def prefix(self) -> str:
        """Path before the hub's own paths, which a terminator in front of it removes; usually empty."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def host(self) -> str:
        """Host name of the hub."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of the hub."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]


def open_connection(
    address: HubAddress, seconds: float = CONNECT_SECONDS, context: ssl.SSLContext | None = None
) -> http.client.HTTPConnection:
    """Returns a connection that is established, through the proxy if one is set.

    Raises OSError, of which ssl.SSLError is one, or http.client.HTTPException.
    """
    proxy = urlsplit(address.proxy) if address.proxy else None
    host, port = (proxy.hostname or "", proxy.port or 3128) if proxy else (address.host, address.port)
    connection: http.client.HTTPConnection
    if address.secure:
        context = context or _context(address)
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    if address.at is not None:
        _connect_at(connection, address.at, context)
        return connection
    if proxy:
        connection.set_tunnel(address.host, address.port, _credentials(proxy.username, proxy.password))
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_at(connection: http.client.HTTPConnection, at: str, context: ssl.SSLContext | None) -> None:
    """Connects to another host and port than the URL's."""
    host, _, port = at.rpartition(":")
    plain = socket.create_connection((host.strip("[]"), int(port)), timeout=connection.timeout)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = context.wrap_socket(plain, server_hostname=connection.host) if context else plain
    except BaseException:
        plain.close()
        raise


def certificate_issuer(address: HubAddress, seconds: float = CONNECT_SECONDS) -> str | None:
    """Returns the issuer's name on the certificate that the hub's address presents, which is the proxy's own authority
    if a proxy opens TLS; None if there is no such certificate. Nothing is sent over that connection."""
    from cryptography import x509

    try:
        connection = open_connection(address, seconds, _unchecked())
    except (OSError, http.client.HTTPException):
        return None
    try:
        certificate = (
            connection.sock.getpeercert(binary_form=True) if isinstance(connection.sock, ssl.SSLSocket) else None
        )
        return x509.load_der_x509_certificate(certificate).issuer.rfc4514_string() if certificate else None
    except ValueError:
        return None
    finally:
        connection.close()


def fetch_authority(address: HubAddress, fingerprint: str, seconds: float = CONNECT_SECONDS) -> bytes:
    """Fetches the certificate of the federation's authority in PEM from its hub, before the hub can be verified.

    Only the certificate whose SHA-256 is `fingerprint` is accepted. Raises IntegrityError for another.
    """
    connection = open_connection(address, seconds, _unchecked() if address.secure else None)
    try:
        connection.request("GET", address.prefix + AUTHORITY_PATH)
        text = connection.getresponse().read(MOST_AUTHORITY)
    finally:
        connection.close()
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(text.decode("ascii"))).hexdigest()
    except ValueError:
        found = ""
    if found != fingerprint:
        raise IntegrityError(
            "the hub's certificate authority is not the one that the operator signed",
            hint="A proxy may answer in the hub's place: ask the operator for the fingerprint, and compare.",
        )
    return text


def _split(url: str, noun: str, *, schemes: tuple[str, ...]) -> None:
    """Raises ConfigError unless the URL has one of the schemes, a host, no query and no control characters."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and bool(parts.hostname) and not re.search(r"[^\x21-\x7e]", url)
        sound = sound and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        shown = re.sub(r"//.*@", "//", url)  # a password stays out of messages
        raise ConfigError(f"{noun} {shown!r:.100} is not a URL such as {schemes[0]}://name:8443")


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}


def _context(address: HubAddress) -> ssl.SSLContext:
    files = (address.authority, address.certificate, address.key)
    return _cached_context(tuple((path, path.stat().st_mtime_ns) if path else None for path in files))


@lru_cache(maxsize=8)
def _cached_context(files: tuple[tuple[Path, int] | None, ...]) -> ssl.SSLContext:
    """Context for a set of files. Renewed files have other times, so that no restart is needed for them."""
    authority, certificate, key = files
    context = ssl.create_default_context(cafile=str(authority[0]) if authority else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        context.load_cert_chain(certificate[0], key[0] if key else None)
    return context


def _unchecked() -> ssl.SSLContext:
    """A context that accepts any certificate, to look at it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

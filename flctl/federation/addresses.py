"""The hub's address as a member connects to it: TLS files and proxy from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flctl.atomic import write_file
from flctl.errors import ConfigError, IntegrityError
from flctl.federation.identity.certificates import has_expired
from flctl.federation.identity.homes import MemberHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.renewals import TLS_CERTIFICATE, TLS_KEY
from flctl.federation.identity.secret_files import read_secret, write_secret
from flctl.federation.transport.connection import HubAddress, fetch_authority

__all__ = ["hub_address", "keep_proxy", "kept_proxy"]

AUTHORITY, PROXY = "authority.pem", "proxy.txt"


def hub_address(home: MemberHome, membership: Membership, proxy: str | None = None) -> HubAddress:
    """Returns the address of the hub, with the TLS files in a member's folder as far as they are there.

    The newest accepted roster overrides the invite's address, `proxy` the one that is kept in the folder. The authority
    of the hub's certificate is fetched once, and has to be the one that the invite or the roster names.
    """
    url, authority, fingerprint = membership.url, "", membership.authority
    try:
        roster = membership.keeper(home).newest()
        url, authority, fingerprint = roster.url, roster.ca, roster.ca_fingerprint
    except ConfigError:  # no roster yet
        pass
    file = home.path / AUTHORITY
    certificate, key = home.identity / TLS_CERTIFICATE, home.identity / TLS_KEY
    # An expired certificate would end the handshake; without one, the hub still renews it.
    both = certificate.exists() and key.exists() and not has_expired(certificate)
    address = HubAddress(
        url=url,
        federation=membership.federation,
        authority=file if fingerprint else None,
        certificate=certificate if both else None,
        key=key if both else None,
        proxy=proxy or kept_proxy(home.path),
    )
    if authority and (not file.exists() or file.read_text(encoding="ascii") != authority):
        write_file(file, authority.encode())
    if fingerprint and not file.exists():
        write_file(file, fetch_authority(replace(address, authority=None), fingerprint))
    return address


def keep_proxy(home: Path, proxy: str) -> None:
    """Keeps the URL of a CONNECT proxy, which may have a password, in a member's folder with mode 0600.

    An empty one removes it. Raises ConfigError unless it is `http://[USER:PASSWORD@]HOST:PORT`.
    """
    if not proxy:
        (home / PROXY).unlink(missing_ok=True)
        return
    _require_proxy(proxy)
    write_secret(home / PROXY, proxy.encode() + b"\n", replace=True)


def kept_proxy(home: Path) -> str | None:
    """Returns the URL of the proxy in a member's folder, or None. Raises IntegrityError if it is not one, or if other
    users can read the file."""
    path = home / PROXY
    if not path.exists():
        return None
    try:
        proxy = read_secret(path).decode("ascii").strip()
        _require_proxy(proxy)
    except (UnicodeDecodeError, ConfigError) as error:
        raise IntegrityError(
            f"{path} is not the URL of a proxy", hint="Write http://[USER:PASSWORD@]HOST:PORT, or delete the file."
        ) from error
    return proxy


def _require_proxy(proxy: str) -> None:
    HubAddress("https://localhost", "federation", proxy=proxy)

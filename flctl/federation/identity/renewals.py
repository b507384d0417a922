"""Renewal of a member's TLS certificate, by a request that the member's identity signs."""

from __future__ import annotations

from pathlib import Path

from flctl.atomic import write_file
from flctl.federation.identity.certificates import (
    Authority,
    certificate_request,
    make_tls_key,
    needs_renewal,
    read_tls_key,
)
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Roster
from flctl.federation.identity.statements import sign, verify

__all__ = ["LARGEST_RENEWAL", "TLS_CERTIFICATE", "TLS_KEY", "issue", "keep_certificate", "renewal"]

PURPOSE = "flctl/renew/1"
LARGEST_RENEWAL = 1 << 14
TLS_KEY, TLS_CERTIFICATE = "tls.key", "tls.pem"
FIELDS = {"federation", "name", "request"}


def renewal(folder: Path, identity: Identity, federation: str, name: str) -> bytes | None:
    """Returns the request for a TLS certificate of the member whose keys are in `folder`, or None if its certificate
    lasts for at least a third of its lifetime more. Makes the TLS key if the folder has none."""
    if not needs_renewal(folder / TLS_CERTIFICATE):
        return None
    path = folder / TLS_KEY
    key = read_tls_key(path) if path.exists() else make_tls_key(path)
    statement = {"federation": federation, "name": name, "request": certificate_request(key, name)}
    return sign(identity, PURPOSE, statement)


def issue(authority: Authority, roster: Roster, text: bytes) -> str:
    """Returns a TLS certificate in PEM for a member's request. A repeated request gives one for the same key.

    Raises UntrustedError unless a member that the roster lists, and whose membership has not ended, signed it.
    """
    signed = verify(text, PURPOSE, most=LARGEST_RENEWAL)
    value = signed.statement
    if set(value) != FIELDS or not isinstance(value["request"], str):
        raise UntrustedError("format", "the request for a certificate has other fields than expected")
    if value["federation"] != roster.federation:
        raise UntrustedError("federation", f"the request is for another federation than {roster.federation}")
    name = roster.name_of(signed.by)
    if name is None or name != value["name"]:
        raise UntrustedError("unknown", "the key that signed the request is not a member's of that name")
    member = roster.site(name) if name in roster.sites else roster.coordinator(name)
    return authority.member(name, value["request"], until=member.until)


def keep_certificate(folder: Path, pem: str) -> None:
    """Stores a member's new certificate. Raises UntrustedError (`certificate`) unless it is for the key in `folder`."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise UntrustedError("certificate", "the hub's answer is not a certificate in PEM") from error
    if found.public_key() != read_tls_key(folder / TLS_KEY).public_key():
        raise UntrustedError("certificate", "the hub's certificate is for another key than the one of this site")
    write_file(folder / TLS_CERTIFICATE, pem.encode("ascii"))

"""TLS certificates of a federation: its own CA, the hub's certificate, and members' client certificates of 30 days.

TLS is the outer door alone: who may do what is decided by the identities' signatures. The CA's key lies at the hub.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flctl.atomic import write_file
from flctl.errors import IntegrityError
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.secret_files import read_secret, write_secret

__all__ = [
    "LEAF_DAYS",
    "Authority",
    "certificate_request",
    "last_moment",
    "make_tls_key",
    "needs_renewal",
    "read_tls_key",
]

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.pem"
LEAF_DAYS = 30
CA_DAYS = 3650
SKEW = timedelta(days=1)
"""Certificates are valid from a day before they are made, so that a clock that is late accepts them."""
LARGEST_REQUEST = 8192


class Authority:
    """A federation's own certificate authority (P-256), used for nothing but its hub and its members.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     authority = Authority.create(Path(folder), "hospitals")
    ...     key = make_tls_key(Path(folder) / "tls.key")
    ...     leaf = authority.member("st-marys", certificate_request(key, "st-marys"))
    >>> leaf.startswith("-----BEGIN CERTIFICATE-----")
    True
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, folder: Path, federation: str) -> Self:
        """Makes a key and a certificate of ten years in `folder`. Raises ConfigError if it has a key."""
        key = make_tls_key(folder / CA_KEY)
        subject = _name(f"flctl {federation} CA"[:64])
        builder = _builder(subject, subject, key.public_key(), timedelta(days=CA_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        made = cls(key, builder.sign(key, SHA256()))
        write_file(folder / CA_CERTIFICATE, made.pem.encode())
        return made

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the key and the certificate in `folder`. Raises ConfigError if they are missing, IntegrityError if
        they are damaged or do not belong together."""
        path = folder / CA_CERTIFICATE
        key, certificate = read_tls_key(folder / CA_KEY), _certificate(read_public(path), path.name)
        if certificate.public_key() != key.public_key():
            raise IntegrityError(f"{path} does not belong to the key beside it", hint="Restore both from one backup.")
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def server(self, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], days: int = LEAF_DAYS) -> str:
        """Returns a server certificate for host names and IP addresses, in PEM."""
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._leaf(hosts[0][:64], key.public_key(), (usage,), timedelta(days=days), names)

    def member(self, name: str, request: str, until: str | None = None, days: int = LEAF_DAYS) -> str:
        """Returns a client certificate for a member, in PEM: its name is the common name.

        `until` is the last day of the membership, which the certificate does not exceed. Raises UntrustedError
        (`certificate`) for a request that is not signed, not P-256, or for another name.
        """
        asked = _request(request)
        public = asked.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
            raise UntrustedError("certificate", "the certificate request has another key than one on the curve P-256")
        if [one.value for one in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != [name]:
            raise UntrustedError("certificate", "the certificate request is for another name")
        lifetime = timedelta(days=days)
        if until is not None:
            end = datetime.fromisoformat(until).replace(tzinfo=UTC) + timedelta(days=1)
            lifetime = min(lifetime, end - datetime.now(UTC))
        if lifetime <= timedelta(0):
            raise UntrustedError("expired", f"the membership of {name} has ended")
        return self._leaf(name, public, (ExtendedKeyUsageOID.CLIENT_AUTH,), lifetime, None)

    def _leaf(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        uses: Iterable[x509.ObjectIdentifier],
        lifetime: timedelta,
        hosts: x509.SubjectAlternativeName | None,
    ) -> str:
        builder = _builder(_name(name), self._certificate.subject, key, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(uses)), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if hosts is not None:
            builder = builder.add_extension(hosts, critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()


def make_tls_key(path: Path, *, replace: bool = False) -> ec.EllipticCurvePrivateKey:
    """Makes a P-256 key in a file with mode 0600. Raises ConfigError if it exists and `replace` is False."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), replace=replace)
    return key


def read_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Reads a P-256 key. Raises IntegrityError for anything else, and if other users can read it."""
    try:
        key = load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is not a private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"{path} is a key of another kind; expected one on the curve P-256")
    return key


def certificate_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Returns a signed request for a certificate with that common name, in PEM."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def last_moment(pem: str) -> datetime:
    """Returns the time at which a certificate expires. Raises UntrustedError (`certificate`)."""
    return _certificate(pem, "the certificate").not_valid_after_utc


def needs_renewal(path: Path, now: datetime | None = None) -> bool:
    """True if a certificate is missing, unreadable, or has less than a third of its lifetime left."""
    try:
        found = _certificate(path.read_text(encoding="ascii"), path.name)
    except (OSError, ValueError, UntrustedError):
        return True
    start, end = found.not_valid_before_utc, found.not_valid_after_utc
    return (now or datetime.now(UTC)) > end - (end - start) / 3


def has_expired(path: Path, now: datetime | None = None) -> bool:
    """True if there is a certificate and its last moment has passed: no hub takes part in a handshake with it."""
    try:
        found = _certificate(path.read_text(encoding="ascii"), path.name)
    except (OSError, ValueError, UntrustedError):
        return False
    return (now or datetime.now(UTC)) > found.not_valid_after_utc


def read_public(path: Path) -> str:
    """Reads a small text file. Raises IntegrityError if it is not one."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 16).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} cannot be read as a certificate") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _certificate(pem: str, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise UntrustedError("certificate", f"{name} is not a certificate in PEM") from error


def _request(pem: str) -> x509.CertificateSigningRequest:
    if len(pem) > LARGEST_REQUEST:
        raise UntrustedError("certificate", f"the certificate request is longer than {LARGEST_REQUEST} bytes")
    try:
        found = x509.load_pem_x509_csr(pem.encode("ascii"))
        valid = found.is_signature_valid and found.public_bytes(Encoding.PEM).decode() == pem
    except (ValueError, InvalidSignature, TypeError) as error:
        raise UntrustedError("certificate", "this is not a certificate request in PEM") from error
    if not valid:
        raise UntrustedError(
            "certificate", "the certificate request is not signed by the key in it, or has other text around it"
        )
    return found

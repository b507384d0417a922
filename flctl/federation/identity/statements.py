"""Signed statements: a JSON object, the purpose that it is signed for, the signing key and its Ed25519 signature.

The signature covers the purpose, so that a statement signed for one purpose is never valid for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flctl.errors import ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.curves import KEY_BYTES, SIGNATURE_BYTES, is_identity, is_signed
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity, hex_bytes

__all__ = ["Signed", "sign", "verify"]

DOMAIN = b"flctl statement 1\0"
FIELDS = {"by", "purpose", "signature", "statement"}


@dataclass(frozen=True)
class Signed:
    """A statement whose signature was verified.

    `by` is the signer's Ed25519 public key; `digest` the SHA-256 of purpose, signer and statement, without the
    signature; `text` the bytes that were verified.
    """

    statement: Mapping[str, Any]
    by: bytes
    digest: str
    text: bytes


def sign(identity: Identity, purpose: str, statement: Mapping[str, Any]) -> bytes:
    """Signs a statement for one purpose and returns it as canonical JSON.

    >>> from flctl.federation.identity.keys import Identity
    >>> identity = Identity.new()
    >>> text = sign(identity, "example/1", {"run": "r1"})
    >>> verify(text, "example/1", by=identity.public.signing).statement
    {'run': 'r1'}
    """
    body = {"by": identity.public.signing.hex(), "purpose": purpose, "statement": statement}
    return canonical({**body, "signature": identity.sign(DOMAIN + canonical(body)).hex()})


def verify(text: bytes, purpose: str, by: bytes | None = None, most: int = 1 << 20) -> Signed:
    """Verifies a signed statement of at most `most` bytes.

    Raises UntrustedError, an IntegrityError, with the reason `format`, `purpose`, `signer` (if `by` is given), `key` or
    `signature`. Without `by`, the caller has to check `Signed.by`.
    """
    value = _parsed(text, most)
    if value["purpose"] != purpose:
        raise UntrustedError("purpose", f"the statement is not signed for the purpose {purpose}")
    signer = hex_bytes(value["by"], KEY_BYTES)
    if by is not None and signer != by:
        raise UntrustedError("signer", "the statement is signed by another key than the expected one")
    if not is_identity(signer):
        raise UntrustedError("key", "the statement is signed by a key of low order")
    message = DOMAIN + canonical({name: value[name] for name in ("by", "purpose", "statement")})
    if not is_signed(signer, hex_bytes(value["signature"], SIGNATURE_BYTES), message):
        raise UntrustedError("signature", "the statement does not fit its signature")
    return Signed(value["statement"], signer, hashlib.sha256(message).hexdigest(), text)


def _parsed(text: bytes, most: int) -> dict[str, Any]:
    try:
        value = parse(text, most)
    except ProtocolError as error:
        raise UntrustedError("format", error.message) from error
    if not isinstance(value, dict) or set(value) != FIELDS or not isinstance(value["statement"], dict):
        raise UntrustedError("format", "expected a statement with the fields by, purpose, signature and statement")
    return value

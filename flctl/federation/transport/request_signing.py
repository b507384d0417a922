"""Signed requests: each request to the hub carries a statement, signed by its sender, over all that it asks for.

TLS may end at a load balancer or at an inspecting proxy, so the hub never relies on it to know its callers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import asdict, dataclass
from typing import get_type_hints

from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import Signed, sign, verify
from flctl.federation.reasons import Reason, Refused

__all__ = ["MOST_HEADER", "SKEW", "SignedRequest", "authorization", "body_digest", "new_nonce", "read_authorization"]

PURPOSE = "flctl/request/1"
SCHEME = "Flctl "
MOST_HEADER = 4096
"""Largest Authorization header in bytes."""
SKEW = 300.0
"""Largest difference in seconds between the clocks of hub and caller. Nonces are remembered for twice that."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The request that a sender signed.

    `path` includes the query, `body` is the SHA-256 of the body (of the Content-Range header for parts of blobs, whose
    bytes their name binds), `time` is in seconds since 1970. `epoch` is the hub's, drawn at its start: nonces are kept
    in memory alone, and a request recorded before a restart must not be valid after it.
    """

    federation: str
    name: str
    method: str
    path: str
    body: str
    time: int
    nonce: str
    epoch: str


_FIELDS = get_type_hints(SignedRequest)


def authorization(identity: Identity, request: SignedRequest) -> str:
    """Returns the value of the Authorization header."""
    return SCHEME + base64.urlsafe_b64encode(sign(identity, PURPOSE, asdict(request))).decode()


def read_authorization(value: str) -> tuple[SignedRequest, Signed]:
    """Returns the signed request and its verified statement. Raises Refused (`door-signature`)."""
    if not value.startswith(SCHEME) or len(value) > MOST_HEADER:
        raise Refused(Reason.DOOR_SIGNATURE)
    try:
        text = base64.b64decode(value.removeprefix(SCHEME), altchars=b"-_", validate=True)
        signed = verify(text, PURPOSE, None, MOST_HEADER)
    except (UntrustedError, binascii.Error, ValueError) as error:
        raise Refused(Reason.DOOR_SIGNATURE) from error
    statement = signed.statement
    if set(statement) != set(_FIELDS) or any(type(statement[name]) is not kind for name, kind in _FIELDS.items()):
        raise Refused(Reason.DOOR_SIGNATURE)
    return SignedRequest(**statement), signed


def body_digest(body: bytes) -> str:
    """Returns the SHA-256 of a request's body."""
    return hashlib.sha256(body).hexdigest()


def new_nonce() -> str:
    """Returns 128 random bits in hexadecimal."""
    return secrets.token_hex(16)

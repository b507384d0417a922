"""Checks of public keys on Curve25519 and edwards25519, and of Ed25519 signatures."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["KEY_BYTES", "PRIME", "SIGNATURE_BYTES", "is_identity", "is_signed", "is_usable"]

KEY_BYTES, SIGNATURE_BYTES = 32, 64
PRIME = 2**255 - 19
_LOW_U = frozenset(
    (
        0,
        1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
        PRIME - 1,
    )
)
"""u-coordinates of the points of order 1, 2, 4 and 8 on Curve25519 and its twist (Bernstein, cr.yp.to/ecdh.html)."""
_LOW_Y = frozenset(
    (
        0,
        1,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        PRIME - 1,
    )
)
"""y-coordinates of the points of order 1, 2, 4 and 8 on edwards25519."""


def is_usable(public: bytes) -> bool:
    """True for a canonical X25519 public key whose order is not low: one of low order gives every peer the same shared
    secret, and two encodings of one key would pass as two keys."""
    u = int.from_bytes(public, "little")
    return len(public) == KEY_BYTES and u < PRIME and u not in _LOW_U


def is_identity(public: bytes) -> bool:
    """True for a canonical Ed25519 public key whose order is not low: under one of low order, one signature is valid
    for many messages. The sign of x is the highest bit."""
    y = int.from_bytes(public, "little") & ~(1 << 255)
    return len(public) == KEY_BYTES and y < PRIME and y not in _LOW_Y


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """True if the Ed25519 signature of the message is valid under the public key; False if either is malformed."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

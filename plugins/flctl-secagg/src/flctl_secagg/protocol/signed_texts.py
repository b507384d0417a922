"""Texts that clients sign in a session, each bound to the session id and to one purpose."""

from __future__ import annotations

import hashlib

from flctl_secagg.crypto.primitives import KEY_BYTES, bound

__all__ = ["agreed_text", "keys_text", "masked_text"]


def keys_text(sid: bytes, client: str, record: bytes) -> bytes:
    """Text that a client signs to authenticate its public keys and its commitment (R0)."""
    return bound(b"keys", sid, client.encode(), record[: 3 * KEY_BYTES])


def masked_text(sid: bytes, client: str, packed: bytes | bytearray | memoryview) -> bytes:
    """Text that a client signs to authenticate its masked vector (R2)."""
    return bound(b"masked", sid, client.encode(), hashlib.sha256(packed).digest())


def agreed_text(sid: bytes, survivors: bytes | memoryview) -> bytes:
    """Text that a client signs to agree to the list of survivors (R3)."""
    return bound(b"survivors", sid, hashlib.sha256(survivors).digest())

"""The texts that clients sign in a session, each bound to its id and to a purpose."""

from __future__ import annotations

import hashlib

from flctl_secagg.crypto.primitives import KEY_BYTES, bound

__all__ = ["agreed_text", "keys_text", "masked_text"]


def keys_text(sid: bytes, client: str, record: bytes) -> bytes:
    """What a client signs of its public keys."""
    return bound(b"keys", sid, client.encode(), record[: 3 * KEY_BYTES])


def masked_text(sid: bytes, client: str, packed: bytes | bytearray | memoryview) -> bytes:
    """What a client signs of its masked vector."""
    return bound(b"masked", sid, client.encode(), hashlib.sha256(packed).digest())


def agreed_text(sid: bytes, survivors: bytes | memoryview) -> bytes:
    """What a client signs of the list of survivors."""
    return bound(b"survivors", sid, hashlib.sha256(survivors).digest())

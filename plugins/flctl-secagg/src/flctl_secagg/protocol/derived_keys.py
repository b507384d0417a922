"""Keys and seeds of a session that follow from its id and a secret: masks, and boxes of shares."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flctl_secagg.crypto.masks import seed_bytes
from flctl_secagg.crypto.primitives import KEY_BYTES, SIGNATURE_BYTES, agree, bound, derive
from flctl_secagg.crypto.shamir import SHARE_BYTES
from flctl_secagg.protocol.session import Session

__all__ = ["BOX_BYTES", "PAIR", "RECORD_BYTES", "box_data", "box_key", "mask_seed", "self_seed"]

RECORD_BYTES = 3 * KEY_BYTES + SIGNATURE_BYTES
"""A key record: c and s public keys, commitment to b, signature."""
PAIR = struct.Struct(f">H{SHARE_BYTES}s{SHARE_BYTES}s")
BOX_BYTES = 12 + PAIR.size + 16
"""A sealed pair of shares: nonce, place on the polynomial and the shares of b and s, tag."""


def self_seed(session: Session, secret: bytes) -> bytes:
    """The seed of PRG(b_u)."""
    return derive(secret, session.sid, b"flctl-secagg self", seed_bytes(session.parameters.cipher))


def mask_seed(session: Session, private: X25519PrivateKey, public: bytes, one: int, other: int) -> bytes:
    """The seed of PRG(s_uv), the same for both of a pair."""
    info = bound(b"mask", min(one, other), max(one, other))
    return derive(agree(private, public), session.sid, info, seed_bytes(session.parameters.cipher))


def box_key(session: Session, private: X25519PrivateKey, public: bytes, sender: int, receiver: int) -> bytes:
    return derive(agree(private, public), session.sid, bound(b"shares", sender, receiver))


def box_data(session: Session, sender: int, receiver: int) -> bytes:
    return bound(b"shares", session.sid, sender, receiver)

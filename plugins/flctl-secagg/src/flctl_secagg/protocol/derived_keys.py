"""Keys and seeds derived from a session's id and a secret, for masks and for encrypted shares."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flctl_secagg.crypto.masks import seed_bytes
from flctl_secagg.crypto.primitives import KEY_BYTES, SIGNATURE_BYTES, agree, bound, derive
from flctl_secagg.crypto.shamir import SHARE_BYTES
from flctl_secagg.protocol.session import Session

__all__ = ["BOX_BYTES", "PAIR", "PROOF_BYTES", "RECORD_BYTES", "box_data", "box_key", "mask_seed", "self_seed"]

RECORD_BYTES = 3 * KEY_BYTES + SIGNATURE_BYTES
"""Size of a key record: public keys of c and s, commitment to b, signature."""
PROOF_BYTES = 2 * SIGNATURE_BYTES
"""Size of the proofs of possession of c and s. They follow the record and the head of the past, and also sign the
head; neither is forwarded."""
PAIR = struct.Struct(f">H{SHARE_BYTES}s{SHARE_BYTES}s")
BOX_BYTES = 12 + PAIR.size + 16
"""Size of an encrypted pair of shares: nonce; x-coordinate and shares of b and s; tag."""


def self_seed(session: Session, secret: bytes) -> bytes:
    """Returns the seed of PRG(b_u), a client's own mask."""
    return derive(secret, session.sid, b"flctl-secagg self", seed_bytes(session.parameters.cipher))


def mask_seed(session: Session, private: X25519PrivateKey, public: bytes, one: int, other: int) -> bytes:
    """Returns the seed of PRG(s_uv), the pairwise mask; both clients of the pair derive the same."""
    info = bound(b"mask", min(one, other), max(one, other))
    return derive(agree(private, public), session.sid, info, seed_bytes(session.parameters.cipher))


def box_key(session: Session, private: X25519PrivateKey, public: bytes, one: int, other: int) -> bytes:
    """Returns the key that seals the shares of a pair, in both directions; both clients derive the same."""
    return derive(agree(private, public), session.sid, bound(b"shares", min(one, other), max(one, other)))


def box_data(session: Session, sender: int, receiver: int) -> bytes:
    return bound(b"shares", session.sid, sender, receiver)

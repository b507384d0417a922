"""Hybrid public key encryption of short secrets (RFC 9180, base mode, one message per key).

Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Built from the primitives, because `cryptography` has HPKE
only from version 47 on; the bytes are the same.
"""

from __future__ import annotations

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from flctl.errors import ProtocolError

__all__ = ["OVERHEAD", "open_sealed", "seal"]

KEM, KDF, AEAD = 0x0020, 0x0001, 0x0002
KEM_SUITE = b"KEM" + struct.pack(">H", KEM)
SUITE = b"HPKE" + struct.pack(">HHH", KEM, KDF, AEAD)
BASE_MODE = b"\x00"
ENCAPSULATED, TAG = 32, 16
OVERHEAD = ENCAPSULATED + TAG
"""Bytes that sealing adds: the ephemeral public key before the ciphertext, and the tag after it."""


def seal(public: bytes, plain: bytes, info: bytes) -> bytes:
    """Encrypts for the owner of an X25519 public key; `info` is authenticated, and not included."""
    ephemeral = X25519PrivateKey.generate()
    encapsulated = ephemeral.public_key().public_bytes_raw()
    shared = _shared(ephemeral, public, encapsulated + public)
    key, nonce = _schedule(shared, info)
    return encapsulated + AESGCM(key).encrypt(nonce, plain, b"")


def open_sealed(private: X25519PrivateKey, box: bytes, info: bytes) -> bytes:
    """Decrypts the output of `seal`. Raises ProtocolError for another key, another `info`, or a changed box."""
    encapsulated = box[:ENCAPSULATED]
    own = private.public_key().public_bytes_raw()
    try:
        shared = _shared(private, encapsulated, encapsulated + own)
        key, nonce = _schedule(shared, info)
        return AESGCM(key).decrypt(nonce, box[ENCAPSULATED:], b"")
    except (InvalidTag, ValueError) as error:
        raise ProtocolError("the sealed key is not for this identity, or was changed") from error


def _shared(private: X25519PrivateKey, public: bytes, context: bytes) -> bytes:
    """Returns the shared secret of the key encapsulation. Raises ValueError for a public key of low order."""
    agreed = private.exchange(X25519PublicKey.from_public_bytes(public))
    return _expand(KEM_SUITE, _extract(KEM_SUITE, b"", b"eae_prk", agreed), b"shared_secret", context, 32)


def _schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Returns the AES key and the nonce of the one message."""
    context = BASE_MODE + _extract(SUITE, b"", b"psk_id_hash", b"") + _extract(SUITE, b"", b"info_hash", info)
    secret = _extract(SUITE, shared, b"secret", b"")
    return _expand(SUITE, secret, b"key", context, 32), _expand(SUITE, secret, b"base_nonce", context, 12)


def _extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(SHA256(), length, labelled).derive(key)

"""The primitives of protocol flctl-secagg/1, from `cryptography` alone: X25519, HKDF-SHA256, AES-256-GCM, Ed25519."""

from __future__ import annotations

import hashlib
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flctl import ProtocolError
from flctl.federation.identity.curves import KEY_BYTES, PRIME, SIGNATURE_BYTES, is_identity, is_signed, is_usable

__all__ = [
    "KEY_BYTES",
    "PROTOCOL",
    "SIGNATURE_BYTES",
    "Signer",
    "agree",
    "bound",
    "commitment",
    "derive",
    "is_identity",
    "is_signed",
    "is_usable",
    "loaded",
    "new_key",
    "possesses",
    "private_of",
    "public_of",
    "sealed",
    "sign",
    "unsealed",
]

PROTOCOL = b"flctl-secagg/1"
NONCE_BYTES = 12


def new_key() -> bytes:
    """Returns 32 random bytes from the operating system."""
    return os.urandom(KEY_BYTES)


def bound(*parts: bytes | int) -> bytes:
    """Encodes the parts injectively: the protocol's name, then each part with its length before it."""
    raw = [part.to_bytes(8, "big") if isinstance(part, int) else part for part in parts]
    return PROTOCOL + b"".join(struct.pack(">I", len(part)) + part for part in raw)


def derive(secret: bytes, sid: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 of a secret of 256 bits, with the session as salt (RFC 5869)."""
    return HKDF(hashes.SHA256(), length, sid, info).derive(secret)


def public_of(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes (RFC 7748)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def loaded(private: bytes) -> X25519PrivateKey:
    """Loads a private key of 32 bytes, once for many peers: loading costs as much as one key agreement."""
    return X25519PrivateKey.from_private_bytes(private)


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """Returns the X25519 shared secret. Raises ProtocolError if the public key is of low order, or not 32 bytes."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError("a peer's public key is of low order, or is not a key") from error


class Signer:
    """Loaded Ed25519 key for many signatures: loading it takes as long as a signature."""

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private)

    def sign(self, message: bytes) -> bytes:
        """Returns the Ed25519 signature, 64 bytes (RFC 8032)."""
        return self._key.sign(message)


def sign(private: bytes, message: bytes) -> bytes:
    """Returns the Ed25519 signature, 64 bytes (RFC 8032)."""
    return Signer(private).sign(message)


def private_of(seed: bytes) -> bytes:
    """The X25519 private key of a session: the scalar of the Ed25519 key with this seed (RFC 8032, 5.1.5), so that the
    key can sign as well as agree."""
    return hashlib.sha512(seed).digest()[:KEY_BYTES]


def possesses(public: bytes, signature: bytes, message: bytes) -> bool:
    """True if the signature was made with the seed of this X25519 public key. Edwards y is (u - 1) / (u + 1), and the
    sign of x, which u does not give, is tried both ways."""
    u = int.from_bytes(public, "little")
    if not is_usable(public):
        return False
    y = (u - 1) * pow(u + 1, -1, PRIME) % PRIME
    points = (y.to_bytes(KEY_BYTES, "little"), (y | 1 << 255).to_bytes(KEY_BYTES, "little"))
    return any(is_signed(point, signature, message) for point in points)


def commitment(secret: bytes, sid: bytes, client: str) -> bytes:
    """SHA-256 commitment to a secret, its session and its owner. Hiding, as the secret has 256 random bits."""
    return hashlib.sha256(bound(b"commitment", sid, client.encode(), secret)).digest()


def sealed(key: bytes, plain: bytes, data: bytes) -> bytes:
    """Encrypts with AES-256-GCM: nonce, ciphertext and tag. `data` is authenticated, and not included."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, data)


def unsealed(key: bytes, box: bytes, data: bytes) -> bytes | None:
    """Decrypts what `sealed` returned; None if the key, the box or `data` differs from when it was sealed."""
    try:
        return AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], data)
    except (InvalidTag, ValueError):
        return None

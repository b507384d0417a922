"""Identities: an Ed25519 key that signs and an X25519 key that opens sealed secrets, and their public halves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flctl.atomic import write_file
from flctl.errors import IntegrityError, ProtocolError
from flctl.federation.identity import hpke
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.curves import KEY_BYTES, is_identity, is_usable
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.secret_files import read_secret, write_secret
from flctl.federation.identity.words import as_words

__all__ = ["KEY_FILE", "PUBLIC_FILE", "Identity", "PublicIdentity", "hex_bytes"]

KEY_FILE, PUBLIC_FILE = "identity.key", "identity.pub"
FORMAT = "flctl-identity/1"
LOST = "Restore the file from a backup, or enrol again: keys cannot be recovered."


@dataclass(frozen=True)
class PublicIdentity:
    """Public keys of one identity, 32 bytes each: `signing` (Ed25519) and `sealing` (X25519).

    Raises UntrustedError (`key`) for keys of low order and for encodings that are not canonical.

    >>> identity = Identity(bytes(range(32)), bytes(range(32)))
    >>> identity.public.words
    'firu bano tutu nadi zili fifu'
    >>> identity.unseal(identity.public.seal(b"content key", b"task 7"), b"task 7")
    b'content key'
    """

    signing: bytes
    sealing: bytes

    def __post_init__(self) -> None:
        if not is_identity(self.signing):
            raise UntrustedError("key", "a signing key is of low order or is not an Ed25519 key")
        if not is_usable(self.sealing):
            raise UntrustedError("key", "a sealing key is of low order or is not an X25519 key")

    @cached_property
    def words(self) -> str:
        """Fingerprint of both keys as six words, for people to compare."""
        return as_words(b"flctl identity\0", self.signing, self.sealing)

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """Encrypts a short secret for this identity alone. `context` binds its use, and is not included."""
        return hpke.seal(self.sealing, secret, context)

    def to_json(self) -> dict[str, str]:
        """Returns both keys in hexadecimal digits."""
        return {"sealing": self.sealing.hex(), "signing": self.signing.hex()}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Reads `to_json`. Raises UntrustedError (`format`, `key`)."""
        if not isinstance(value, Mapping) or set(value) != {"sealing", "signing"}:
            raise UntrustedError("format", "an identity has the fields sealing and signing")
        return cls(hex_bytes(value["signing"], KEY_BYTES), hex_bytes(value["sealing"], KEY_BYTES))


class Identity:
    """Private keys of one identity. They are read once from a folder, and never printed.

    >>> identity = Identity.new()
    >>> len(identity.sign(b"message"))
    64
    """

    def __init__(self, signing: bytes, sealing: bytes) -> None:
        self._signing = Ed25519PrivateKey.from_private_bytes(signing)
        self._sealing = X25519PrivateKey.from_private_bytes(sealing)
        self.public = PublicIdentity(
            self._signing.public_key().public_bytes_raw(), self._sealing.public_key().public_bytes_raw()
        )

    def __repr__(self) -> str:
        return f"Identity({self.public.words!r})"

    @classmethod
    def new(cls) -> Self:
        """Makes new keys in memory."""
        return cls(
            Ed25519PrivateKey.generate().private_bytes_raw(),
            X25519PrivateKey.generate().private_bytes_raw(),
        )

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Makes new keys in `folder`: `identity.key` with mode 0600, and `identity.pub`.

        Raises ConfigError if the folder has an identity, StorageError if it cannot be written.
        """
        identity = cls.new()
        private = {
            "format": FORMAT,
            "sealing": identity._sealing.private_bytes_raw().hex(),
            "signing": identity._signing.private_bytes_raw().hex(),
        }
        write_secret(folder / KEY_FILE, canonical(private) + b"\n")
        write_file(folder / PUBLIC_FILE, canonical(identity.public.to_json()) + b"\n")
        return identity

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the keys in `folder`. Raises ConfigError if there are none, IntegrityError if other users can read
        them or if the file is damaged."""
        path = folder / KEY_FILE
        try:
            value = parse(read_secret(path).removesuffix(b"\n"), most=1 << 12)
            if not isinstance(value, dict) or set(value) != {"format", "sealing", "signing"}:
                raise ProtocolError("fields")
            if value["format"] != FORMAT:
                raise ProtocolError("format")
            return cls(hex_bytes(value["signing"], KEY_BYTES), hex_bytes(value["sealing"], KEY_BYTES))
        except (ProtocolError, UntrustedError) as error:
            raise IntegrityError(f"{path} is not an identity of the format {FORMAT}", hint=LOST) from error

    def sign(self, message: bytes) -> bytes:
        """Returns the Ed25519 signature, 64 bytes.

        Protocols sign messages that begin with their own name, as `statements.sign` does, so that a signature for one
        is never valid in another.
        """
        return self._signing.sign(message)

    def secret(self, label: bytes) -> bytes:
        """Derives 32 secret bytes for one use, by HKDF-SHA256 of the signing key. `label` names the use."""
        return HKDF(SHA256(), KEY_BYTES, None, b"flctl identity secret\0" + label).derive(
            self._signing.private_bytes_raw()
        )

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypts a secret sealed to this identity. Raises ProtocolError if the key or the context differs."""
        return hpke.open_sealed(self._sealing, sealed, context)


def hex_bytes(value: Any, length: int) -> bytes:
    """Decodes lower-case hexadecimal digits of exactly `length` bytes. Raises UntrustedError (`format`)."""
    try:
        found = bytes.fromhex(value)
    except (ValueError, TypeError):
        found = b""
    if len(found) != length or found.hex() != value:
        raise UntrustedError("format", f"expected {2 * length} lower-case hexadecimal digits")
    return found

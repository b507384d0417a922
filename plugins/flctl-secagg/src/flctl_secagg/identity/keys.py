"""Ed25519 identity keys of clients and operators, and their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flctl import ConfigError, IntegrityError, RunIdentities
from flctl.federation.identity.secret_files import read_secret, write_secret
from flctl_secagg.crypto.primitives import KEY_BYTES, Signer, bound, derive, new_key
from flctl_secagg.identity.ids import key_file

__all__ = ["LOST", "Keyring", "MemberKey", "PrivateKeys", "identity_public", "read_private", "write_private"]

LOST = "Copy it again from its origin: identity keys cannot be recovered."
_MEMORY = b"flctl-secagg memory"


def identity_public(private: bytes) -> bytes:
    """The Ed25519 public key of 32 private bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class PrivateKeys(Protocol):
    """Private identity keys of clients, in use."""

    def signer(self, client: str) -> Callable[[bytes], bytes]:
        """Returns the function that signs a client's messages."""

    def memory_key(self, client: str) -> bytes:
        """Returns the key that seals a client's state between phases."""


@dataclass(frozen=True)
class Keyring:
    """Source of clients' private keys. `secret_of` is called for each message, and its result is not cached."""

    secret_of: Callable[[str], bytes]

    def __repr__(self) -> str:
        return "Keyring()"

    def signer(self, client: str) -> Callable[[bytes], bytes]:
        """Returns the function that signs a client's messages."""
        return Signer(self.secret_of(client)).sign

    def memory_key(self, client: str) -> bytes:
        """Returns the key that seals a client's state between phases."""
        return derive(self.secret_of(client), _MEMORY, client.encode())

    @classmethod
    def derived(cls, master: bytes) -> Keyring:
        """Derives all clients' keys from one secret, for simulations on one machine."""
        return cls(lambda client: derive(master, b"flctl-secagg simulation", bound(b"identity", client.encode())))

    @classmethod
    def files(cls, directory: Path) -> Keyring:
        """Reads each client's key from its file `CLIENT.key`."""
        return cls(lambda client: read_private(key_file(directory, client)))


@dataclass(frozen=True)
class MemberKey:
    """The key of one site: its identity in a federation."""

    identities: RunIdentities

    def signer(self, client: str) -> Callable[[bytes], bytes]:
        """Returns the function that signs the site's messages. Raises ConfigError for another client."""
        if self.identities.sign is None or client != self.identities.me:
            raise ConfigError(f"the key of '{client}' is not here: {self._named()}")
        return self.identities.sign

    def memory_key(self, client: str) -> bytes:
        """Returns the key that seals the site's state between phases. Raises ConfigError for another client."""
        if self.identities.secret is None or client != self.identities.me:
            raise ConfigError(f"the key of '{client}' is not here: {self._named()}")
        return self.identities.secret(_MEMORY)

    def _named(self) -> str:
        me = self.identities.me
        return "the coordinator has no site's key" if me is None else f"this is '{me}'"


def write_private(path: Path, key: bytes | None = None) -> bytes:
    """Writes a private key of 32 bytes, a new one unless given, with mode 0600, and returns it. Raises ConfigError if
    the file exists: a key is never overwritten."""
    key = new_key() if key is None else key
    write_secret(path, key.hex().encode() + b"\n")
    return key


def read_private(path: Path) -> bytes:
    """Reads a private key of 32 bytes. Raises ConfigError if the file cannot be read, IntegrityError if it holds no
    key or if other users can read it."""
    try:
        raw = read_secret(path)
    except ConfigError as error:
        raise ConfigError(error.message, hint="Create one: flctl secagg keys init DIR ID") from error
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise IntegrityError(f"{path} is not a key of 32 bytes", hint=LOST)
    return key

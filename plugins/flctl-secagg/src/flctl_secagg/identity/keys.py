"""Ed25519 identity keys of clients and operators, and their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flctl import ConfigError, IntegrityError, StorageError
from flctl_secagg.crypto.primitives import bound, derive, new_key
from flctl_secagg.identity.ids import key_file

__all__ = ["LOST", "Keyring", "identity_public", "read_private", "write_private", "write_public"]

LOST = "Copy it again from its origin: identity keys cannot be recovered."


def identity_public(private: bytes) -> bytes:
    """The Ed25519 public key of 32 private bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@dataclass(frozen=True)
class Keyring:
    """Source of clients' private keys. `secret_of` is called for each message, and its result is not cached."""

    secret_of: Callable[[str], bytes]

    def __repr__(self) -> str:
        return "Keyring()"

    @classmethod
    def derived(cls, master: bytes) -> Keyring:
        """Derives all clients' keys from one secret, for simulations on one machine."""
        return cls(lambda client: derive(master, b"flctl-secagg simulation", bound(b"identity", client.encode())))

    @classmethod
    def files(cls, directory: Path) -> Keyring:
        """Reads each client's key from its file `CLIENT.key`."""
        return cls(lambda client: read_private(key_file(directory, client)))


def write_private(path: Path, key: bytes | None = None) -> bytes:
    """Writes a private key of 32 bytes, a new one unless given, with mode 0600, and returns it. Raises ConfigError if
    the file exists: a key is never overwritten."""
    key = new_key() if key is None else key
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists", hint="Keys are not overwritten: move it to another folder, or use another name."
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(key.hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def read_private(path: Path) -> bytes:
    """Reads a private key of 32 bytes. Raises ConfigError if the file cannot be read, IntegrityError if it holds no
    key or if other users can read it."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise IntegrityError(f"{path} can be read by others", hint=f"chmod 600 {path.name}; a new key is safer.")
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="Create one: flctl secagg keys init DIR ID"
        ) from error
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise IntegrityError(f"{path} is not a key of 32 bytes", hint=LOST)
    return key


def write_public(path: Path, text: str) -> None:
    """Writes a file that holds no secret, atomically."""
    partial = path.with_name(path.name + f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error

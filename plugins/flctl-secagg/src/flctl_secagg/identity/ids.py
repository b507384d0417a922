"""Client ids: the check of ids from rosters, partitions and command lines, and the files of keys that they name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from flctl import ConfigError

__all__ = ["MOST_BYTES", "key_file", "require_ids"]

MOST_BYTES = 200
"""Largest id in bytes of UTF-8: `ID.key` has to be a file name, and these have 255 bytes at most."""
_HINT = "Rename the client."


def require_ids(clients: Iterable[str]) -> None:
    """Raises ConfigError unless all ids are usable and no two look alike.

    Refused are ids that are blank, longer than 200 bytes, padded with blanks, or not printable (control and format
    characters, lone surrogates); that have `.`, `..` or nothing as a part of a path; and two ids that are equal, or
    become equal in Unicode's composed form (NFC): an operator who reads the roster could not tell them apart.
    """
    seen: dict[str, str] = {}
    for client in clients:
        if problem := _problem(client):
            raise ConfigError(f"{client!r:.60} cannot be a client's id: {problem}", hint=_HINT)
        composed = client if client.isascii() else unicodedata.normalize("NFC", client)
        if composed in seen:
            both = f"{seen[composed]!a} and {client!a}"
            raise ConfigError(f"the ids {both} are the same in Unicode's composed form", hint=_HINT)
        seen[composed] = client


def key_file(directory: Path, client: str) -> Path:
    """Returns the file of a client's private key. Raises ConfigError if the id cannot be the name of a file."""
    require_ids([client])
    if client.startswith(".") or any(letter in client for letter in "/\\:"):
        raise ConfigError(f"{client!r:.60} is not a valid file name", hint="Key files are named after client ids.")
    return directory / f"{client}.key"


def _problem(client: str) -> str | None:
    if not client.strip():
        return "it is blank"
    if client != client.strip():
        return "it begins or ends with a blank"
    if not client.isprintable():
        return "it has characters that are not printable"
    if len(client.encode()) > MOST_BYTES:
        return f"it has {len(client.encode())} bytes, expected at most {MOST_BYTES}"
    if any(part in ("", ".", "..") for part in client.replace("\\", "/").split("/")):
        return "it is a path"
    return None

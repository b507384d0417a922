"""The roster: Ed25519 identity keys by client, signed by an operator."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from flctl import ConfigError, IntegrityError
from flctl_secagg.crypto.primitives import bound, is_signed, sign
from flctl_secagg.identity.keys import LOST, identity_public

__all__ = ["ROSTER", "Roster", "make_roster", "read_roster", "roster_of"]

ROSTER = "roster.json"
FORMAT = "flctl-secagg-roster/1"
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Roster:
    """Client -> Ed25519 public key, under the operator's signature. `run` names what it is for; `graph_seed` is public
    and was drawn before any cohort."""

    run: str
    graph_seed: bytes
    operator: bytes
    keys: Mapping[str, bytes]
    signature: bytes

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of what the operator signed, and of who that is; part of every session's id."""
        return hashlib.sha256(self.signed_part(self.run, self.graph_seed, self.keys) + self.operator).digest()

    @staticmethod
    def signed_part(run: str, graph_seed: bytes, keys: Mapping[str, bytes]) -> bytes:
        """What the operator signs."""
        listed = json.dumps(sorted((client, key.hex()) for client, key in keys.items()), separators=(",", ":"))
        return bound(b"roster", run.encode(), graph_seed, listed.encode())

    def check(self, operator: bytes | None = None) -> None:
        """Raises IntegrityError unless the signature holds, keys are distinct, and the operator is the pinned one."""
        if operator is not None and operator != self.operator:
            raise IntegrityError("the roster is signed by another operator than the one that is pinned", hint=LOST)
        if not is_signed(self.operator, self.signature, self.signed_part(self.run, self.graph_seed, self.keys)):
            raise IntegrityError(
                "the roster's signature does not hold", hint="Sign it again: flctl secagg roster sign."
            )
        if len(set(self.keys.values())) != len(self.keys):
            raise IntegrityError("the roster gives two clients one key", hint="Give each client a key of its own.")

    def text(self) -> str:
        """The roster as a JSON file has it."""
        values = {
            "format": FORMAT,
            "run": self.run,
            "graph_seed": self.graph_seed.hex(),
            "operator": self.operator.hex(),
            "signature": self.signature.hex(),
            "clients": {client: key.hex() for client, key in sorted(self.keys.items())},
        }
        return json.dumps(values, indent=1) + "\n"


def make_roster(run: str, keys: Mapping[str, bytes], operator: bytes) -> Roster:
    """A roster signed with the operator's private key, with a new graph seed."""
    seed = os.urandom(32)
    signature = sign(operator, Roster.signed_part(run, seed, keys))
    return Roster(run, seed, identity_public(operator), dict(keys), signature)


def read_roster(path: Path) -> Roster:
    """The roster in a file, its signature checked. Raises ConfigError where there is none, IntegrityError for a file
    that is damaged or not signed by whom it says."""
    try:
        facts = path.stat()
    except OSError as error:
        raise ConfigError(f"there is no roster at {path}", hint="Make one: flctl secagg roster sign.") from error
    if facts.st_size > MOST_BYTES:
        raise IntegrityError(f"{path} has {facts.st_size} bytes; at most {MOST_BYTES} are read")
    return _read(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> Roster:
    return roster_of(path.read_text(encoding="utf-8", errors="replace"), path)


def roster_of(text: str, path: Path) -> Roster:
    """The roster that a text from `path` says, its signature checked. Raises IntegrityError."""
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        hexed = {name: bytes.fromhex(values[name]) for name in ("graph_seed", "operator", "signature")}
        keys = {str(client): bytes.fromhex(key) for client, key in values["clients"].items()}
        roster = Roster(str(values["run"]), hexed["graph_seed"], hexed["operator"], keys, hexed["signature"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is no roster", hint=LOST) from error
    if any(len(key) != 32 for key in (*keys.values(), roster.operator, roster.graph_seed)):
        raise IntegrityError(f"{path} has keys that are not 32 bytes long", hint=LOST)
    roster.check()
    return roster

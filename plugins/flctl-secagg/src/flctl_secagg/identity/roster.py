"""The roster: Ed25519 identity keys by client, signed by an operator."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from flctl import ConfigError, IntegrityError, RunIdentities
from flctl.federation.identity.roster import Roster as FederationRoster
from flctl_secagg.crypto.primitives import bound, is_identity, is_signed, sign
from flctl_secagg.identity.ids import require_ids
from flctl_secagg.identity.keys import LOST, identity_public

__all__ = ["ROSTER", "Roster", "RunRoster", "make_roster", "read_roster", "roster_of"]

ROSTER = "roster.json"
FORMAT = "flctl-secagg-roster/1"
RUN_FORMAT = "flctl-secagg-run-roster/1"
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Roster:
    """Ed25519 public keys by client, signed by the operator.

    `run` names the run that the roster is for; empty for any. `graph_seed` is public, and drawn before any cohort.
    """

    run: str
    graph_seed: bytes
    operator: bytes
    keys: Mapping[str, bytes]
    signature: bytes

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the signed text and the operator's public key; part of every session's id."""
        return hashlib.sha256(self.signed_part(self.run, self.graph_seed, self.keys) + self.operator).digest()

    @staticmethod
    def signed_part(run: str, graph_seed: bytes, keys: Mapping[str, bytes]) -> bytes:
        """Text that the operator signs: run, graph seed, and keys sorted by client."""
        listed = json.dumps(sorted((client, key.hex()) for client, key in keys.items()), separators=(",", ":"))
        return bound(b"roster", run.encode(), graph_seed, listed.encode())

    def check(self, operator: bytes | None = None) -> None:
        """Raises IntegrityError if the signature is invalid, a key is of low order or used twice, or the operator is
        not the pinned `operator`; ConfigError if an id is not usable."""
        if operator is not None and operator != self.operator:
            raise IntegrityError("the roster is signed with another key than the pinned operator key", hint=LOST)
        self._sound  # noqa: B018

    @cached_property
    def _sound(self) -> None:
        """Raises what `check` raises, for everything but the pinned operator; computed once."""
        if not is_signed(self.operator, self.signature, self.signed_part(self.run, self.graph_seed, self.keys)):
            raise IntegrityError(
                "the roster's signature is invalid", hint="Sign it again: flctl secagg roster sign DIR --run NAME"
            )
        require_ids(self.keys)
        for client, key in (("operator", self.operator), *self.keys.items()):
            if not is_identity(key):
                raise IntegrityError(
                    f"the roster's key of '{client}' is of low order, so that one signature would fit many messages",
                    hint="Make a key with: flctl secagg keys init DIR ID",
                )
        if len(set(self.keys.values())) != len(self.keys):
            raise IntegrityError(
                "the roster has the same key for two clients", hint="Use a different key for each client."
            )

    def text(self) -> str:
        """Returns the roster as the text of its JSON file."""
        values = {
            "format": FORMAT,
            "run": self.run,
            "graph_seed": self.graph_seed.hex(),
            "operator": self.operator.hex(),
            "signature": self.signature.hex(),
            "clients": {client: key.hex() for client, key in sorted(self.keys.items())},
        }
        return json.dumps(values, indent=1) + "\n"


@dataclass(frozen=True)
class RunRoster(Roster):
    """Roster of a run at real sites: `run` is the plan's digest, and keys and graph seed are from the federation's
    roster, whose text `federation` has the operator's signature. Sites that agree on both have one digest."""

    federation: bytes = b""

    @classmethod
    def of(cls, identities: RunIdentities) -> Self:
        """Returns the roster of a run's identities."""
        return cls(
            run=identities.run,
            graph_seed=identities.graph_seed,
            operator=identities.operator,
            keys=dict(identities.keys),
            signature=b"",
            federation=identities.roster,
        )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the run, its clients' keys, the graph seed and the operator's public key."""
        signed = self.signed_part(self.run, self.graph_seed, self.keys)
        federation = hashlib.sha256(self.federation).digest()
        return hashlib.sha256(bound(b"federation", signed, federation, self.operator)).digest()

    @cached_property
    def _sound(self) -> None:
        """Raises IntegrityError unless the operator signed the federation's roster, and it has these keys."""
        found = FederationRoster.read(self.federation, self.operator)
        keys = {name: member.identity.signing for name, member in found.sites.items()}
        if found.graph_seed != self.graph_seed or not self.keys.items() <= keys.items():
            raise IntegrityError("the run's roster has other keys than the federation's", hint=LOST)

    def text(self) -> str:
        """Returns the roster as the text of its JSON file."""
        values = {
            "format": RUN_FORMAT,
            "run": self.run,
            "clients": sorted(self.keys),
            "federation": self.federation.decode(),
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Reads the values of `text`. Raises ValueError, KeyError or TypeError for others, IntegrityError for a
        federation's roster that is not valid."""
        federation = FederationRoster.read(values["federation"].encode())
        keys = {str(name): federation.sites[name].identity.signing for name in values["clients"]}
        return cls(str(values["run"]), federation.graph_seed, federation.operator, keys, b"", federation.signed)


def make_roster(run: str, keys: Mapping[str, bytes], operator: bytes) -> Roster:
    """Makes a roster with a new graph seed, signed with the operator's private key."""
    seed = os.urandom(32)
    signature = sign(operator, Roster.signed_part(run, seed, keys))
    return Roster(run, seed, identity_public(operator), dict(keys), signature)


def read_roster(path: Path) -> Roster:
    """Reads a roster from a file and checks its signature. Raises ConfigError if the file is missing, IntegrityError if
    it is damaged, larger than 256 MiB, or not signed by the operator that it names."""
    try:
        facts = path.stat()
    except OSError as error:
        sign_it = f"flctl secagg roster sign {shlex.quote(str(path.parent))} --run NAME"
        raise ConfigError(f"there is no roster at {path}", hint=f"Create one: {sign_it}") from error
    if facts.st_size > MOST_BYTES:
        raise IntegrityError(f"{path} has {facts.st_size} bytes; at most {MOST_BYTES} are read")
    return _read(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> Roster:
    return roster_of(path.read_text(encoding="utf-8", errors="replace"), path)


def roster_of(text: str, path: Path) -> Roster:
    """Parses a roster from the text of `path` and checks its signature. Raises IntegrityError if either fails."""
    try:
        values = json.loads(text)
        form = values.pop("format")
        if form == RUN_FORMAT:
            return RunRoster.parse(values)
        if form != FORMAT:
            raise ValueError("another format")
        hexed = {name: bytes.fromhex(values[name]) for name in ("graph_seed", "operator", "signature")}
        keys = {str(client): bytes.fromhex(key) for client, key in values["clients"].items()}
        roster = Roster(str(values["run"]), hexed["graph_seed"], hexed["operator"], keys, hexed["signature"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a roster", hint=LOST) from error
    if any(len(key) != 32 for key in (*keys.values(), roster.operator, roster.graph_seed)):
        raise IntegrityError(f"{path} has keys that are not 32 bytes long", hint=LOST)
    roster.check()
    return roster

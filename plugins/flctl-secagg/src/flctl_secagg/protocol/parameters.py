"""Parameters of a session: proposed by the server, checked by each client, encoded in one canonical form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flctl import ProtocolError
from flctl.types import ROW_SUMS, Ask
from flctl_secagg.crypto.masks import Ciphers
from flctl_secagg.crypto.primitives import PROTOCOL
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol.degrees import Mode
from flctl_secagg.protocol.frames import MOST_HELLO, version_error

__all__ = ["GENESIS", "Parameters"]

_MOST_COUNT = 1 << 63
GENESIS = "0" * 64
"""`previous` of the first session."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of a session, proposed by the server and checked by each client.

    `work` is `work_digest`. `minimum` and `survivors` are the fewest clients at the start and at the end. `cohort` is
    sorted. `deadline` is in seconds; 0 means no deadline. `nonce` is 64 hex digits. `previous` is the digest of the
    outcomes of all earlier sessions (the server's journal). `config` is `config_digest`. `server` is the public key, in
    hex digits, that signs all messages of the server; empty if they are not signed.
    """

    run: str
    round: int
    attempt: int
    work: str
    layout: tuple[tuple[str, int], ...]
    bits: int
    clip: float
    max_weight: float
    minimum: int
    survivors: int
    neighbours: int
    threshold: int
    mode: Mode
    cipher: Ciphers
    cohort: tuple[str, ...]
    deadline: float
    nonce: str
    words: int
    levels: int
    previous: str = GENESIS
    config: str = ""
    server: str = ""
    version: str = PROTOCOL.decode()

    @property
    def ask(self) -> Ask:
        """Kind of the session's vectors: a client masks only vectors of its layout, and no update has that of
        sums over rows."""
        names = tuple(name for name, _ in self.layout)
        return next((ask for ask, name in ROW_SUMS.items() if names == (name,)), "train")

    def canonical(self) -> bytes:
        """Returns the canonical encoding: JSON with sorted keys and no spaces."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def read(cls, raw: bytes) -> Parameters:
        """Parses canonical bytes. Raises ProtocolError if they are malformed, not canonical, or larger than 4 MiB."""
        if len(raw) > MOST_HELLO:
            raise ProtocolError(f"parameters of {len(raw)} bytes; at most {MOST_HELLO} are read")
        try:
            values = json.loads(raw)
            _require_version(values)
            values["layout"] = tuple((name, length) for name, length in values["layout"])
            values["cohort"] = tuple(values["cohort"])
            found = cls(**values)
            found.check_types()
            same = found.canonical() == raw
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ProtocolError("parameters of a session are not well-formed") from error
        if not same:
            raise ProtocolError("parameters of a session are not in their canonical form")
        return found

    def check_types(self) -> None:
        """Raises TypeError or ValueError if a value has the wrong type, or is out of range."""
        texts = (self.run, self.work, self.mode, self.cipher, self.nonce, self.previous, self.version, *self.cohort)
        texts += (self.config, self.server)
        numbers: tuple[int, ...] = (self.round, self.attempt, self.bits, self.minimum, self.survivors, self.neighbours)
        numbers += (self.threshold, self.words, self.levels, *(length for _, length in self.layout))
        if any(type(text) is not str for text in (*texts, *(name for name, _ in self.layout))):
            raise TypeError("a text is not a str")
        if any(type(number) is not int or not 0 <= number < _MOST_COUNT for number in numbers):
            raise TypeError("a count is not an int from 0 to 2^63 - 1")
        if any(type(number) is not float or number < 0 for number in (self.clip, self.max_weight, self.deadline)):
            raise TypeError("a number is not a float of at least 0")
        if any(text and len(bytes.fromhex(text)) != 32 for text in (self.config, self.server)):
            raise ValueError("a digest or a key is no such thing")
        if len(bytes.fromhex(self.previous)) != 32 or len(self.previous) != 64:
            raise ValueError("the digest of earlier sessions is invalid")
        if len(bytes.fromhex(self.nonce)) != 32 or len(self.nonce) != 64 or len(dict(self.layout)) != len(self.layout):
            raise ValueError("the nonce or the layout is invalid")

    def sid(self, roster: Roster) -> bytes:
        """Returns the session id: SHA-256 of the protocol's name, these parameters and the roster's digest."""
        return hashlib.sha256(PROTOCOL + self.canonical() + roster.digest).digest()


def _require_version(values: Mapping[str, Any]) -> None:
    """Raises ProtocolError if parameters are of another version, whose other fields are not known here."""
    found, name = values["version"], PROTOCOL.decode()
    if type(found) is str and found != name:
        family, _, mine = name.rpartition("/")
        other = found.removeprefix(f"{family}/")
        raise version_error(mine, other if other.isdecimal() and len(other) < 10 else f"{found!r:.40}")

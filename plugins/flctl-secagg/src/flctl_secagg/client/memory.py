"""State of a client between two phases of a session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Memory"]

_BY_POSITION = ("records", "keys", "peers", "shares")


@dataclass(frozen=True, repr=False)
class Memory:
    """State of a client between phases, encrypted (sealed) before it leaves the process, and left out of `repr`.

    `started` is the time of the session's first message by the client's own clock, in seconds. `keys` are the keys that
    seal shares, and `peers` the public keys of s, both by neighbour. `shared` is the SHA-256 of the parcels sent.
    """

    phase: int
    parameters: bytes
    started: float = 0.0
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    records: Mapping[int, bytes] = field(default_factory=dict)
    keys: Mapping[int, bytes] = field(default_factory=dict)
    peers: Mapping[int, bytes] = field(default_factory=dict)
    shares: Mapping[int, bytes] = field(default_factory=dict)
    shared: bytes = b""
    survivors: bytes = b""

    def written(self) -> bytes:
        """Returns the state as JSON, with bytes in hexadecimal."""
        values = {
            "phase": self.phase,
            "started": self.started,
            "parameters": self.parameters.decode(),
            "secrets": {name: value.hex() for name, value in self.secrets.items()},
            **{name: _hexed(getattr(self, name)) for name in _BY_POSITION},
            "shared": self.shared.hex(),
            "survivors": self.survivors.hex(),
        }
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def read(cls, raw: bytes) -> Memory:
        """Parses the bytes that `written` returned."""
        values = json.loads(raw)
        return cls(
            phase=values["phase"],
            started=values["started"],
            parameters=values["parameters"].encode(),
            secrets={name: bytes.fromhex(value) for name, value in values["secrets"].items()},
            **{
                name: {int(position): bytes.fromhex(one) for position, one in values[name].items()}
                for name in _BY_POSITION
            },
            shared=bytes.fromhex(values["shared"]),
            survivors=bytes.fromhex(values["survivors"]),
        )


def _hexed(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(position): value.hex() for position, value in values.items()}

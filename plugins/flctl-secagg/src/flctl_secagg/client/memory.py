"""State of a client between two phases of a session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Memory"]


@dataclass(frozen=True, repr=False)
class Memory:
    """State of a client between phases, encrypted (sealed) before it leaves the process, and left out of `repr`.

    `started` is the time of the session's first message by the client's own clock, in seconds.
    """

    phase: int
    parameters: bytes
    started: float = 0.0
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    records: Mapping[int, bytes] = field(default_factory=dict)
    shares: Mapping[int, bytes] = field(default_factory=dict)
    survivors: bytes = b""

    def written(self) -> bytes:
        """Returns the state as JSON, with bytes in hexadecimal."""
        values = {
            "phase": self.phase,
            "started": self.started,
            "parameters": self.parameters.decode(),
            "secrets": {name: value.hex() for name, value in self.secrets.items()},
            "records": {str(place): value.hex() for place, value in self.records.items()},
            "shares": {str(place): value.hex() for place, value in self.shares.items()},
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
            records={int(place): bytes.fromhex(value) for place, value in values["records"].items()},
            shares={int(place): bytes.fromhex(value) for place, value in values["shares"].items()},
            survivors=bytes.fromhex(values["survivors"]),
        )

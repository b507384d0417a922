"""Session: parameters and a roster, the id that binds both, and values derived from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from flctl_secagg.crypto.primitives import bound
from flctl_secagg.encoding.vectors import Encoding
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol.graph import neighbours_of
from flctl_secagg.protocol.parameters import Parameters

__all__ = ["Session"]


@dataclass(frozen=True)
class Session:
    """Parameters and roster of a session, and the values derived from them."""

    parameters: Parameters
    roster: Roster

    @staticmethod
    def encoding_of(found: Parameters) -> Encoding:
        """Encoding of vectors as words under these parameters. Raises IncompatibleError if the ring is too small."""
        return Encoding(found.layout, found.bits, len(found.cohort), found.clip, found.max_weight)

    @cached_property
    def sid(self) -> bytes:
        """Session id, 32 bytes."""
        return self.parameters.sid(self.roster)

    @cached_property
    def encoding(self) -> Encoding:
        """Encoding of vectors as words."""
        return self.encoding_of(self.parameters)

    @property
    def count(self) -> int:
        """Number of clients in the cohort."""
        return len(self.parameters.cohort)

    @cached_property
    def graph_seed(self) -> bytes:
        """Seed of the masking graph: the session id, or in active mode a hash of the roster's seed and the round. The
        roster's seed predates the cohort, so the server cannot try nonces until a client has corrupt neighbours."""
        if self.parameters.mode == "active":
            return hashlib.sha256(self.roster.graph_seed + self.parameters.round.to_bytes(8, "big")).digest()
        return self.sid

    @cached_property
    def share_digest(self) -> hashlib._Hash:
        """State of SHA-256 before each commitment to a share; a copy of it takes a fifth of the time."""
        return hashlib.sha256(bound(b"share", self.sid))

    def neighbours(self, position: int) -> tuple[int, ...]:
        """Returns the positions of the neighbours of the client at `position`, ascending."""
        if position not in self._near:
            degree = self.parameters.neighbours
            self._near[position] = neighbours_of(position, self.count, degree, self.graph_seed)
        return self._near[position]

    @cached_property
    def _near(self) -> dict[int, tuple[int, ...]]:
        return {}

    def key_of(self, position: int) -> bytes:
        """Returns the public identity key of the client at `position`."""
        return self.roster.keys[self.parameters.cohort[position]]

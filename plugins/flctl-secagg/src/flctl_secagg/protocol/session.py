"""A session: its parameters under a roster, the id that binds both, and what follows from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from flctl_secagg.encoding.vectors import Encoding
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol.graph import neighbours_of
from flctl_secagg.protocol.parameters import Parameters

__all__ = ["Session"]


@dataclass(frozen=True)
class Session:
    """Parameters with all that follows from them."""

    parameters: Parameters
    roster: Roster

    @staticmethod
    def encoding_of(found: Parameters) -> Encoding:
        """How vectors become words."""
        return Encoding(found.layout, found.bits, len(found.cohort), found.clip, found.max_weight)

    @cached_property
    def sid(self) -> bytes:
        """The session's id."""
        return self.parameters.sid(self.roster)

    @cached_property
    def encoding(self) -> Encoding:
        """How vectors become words."""
        return self.encoding_of(self.parameters)

    @property
    def count(self) -> int:
        """The cohort's size."""
        return len(self.parameters.cohort)

    @cached_property
    def graph_seed(self) -> bytes:
        """Of the session; in active mode of the roster, which is older than the cohort, so that the server cannot
        try nonces until a client's neighbours are its own."""
        if self.parameters.mode == "active":
            return hashlib.sha256(self.roster.graph_seed + self.parameters.round.to_bytes(8, "big")).digest()
        return self.sid

    def neighbours(self, place: int) -> tuple[int, ...]:
        """Who masks with the client at `place`, ascending."""
        if place not in self._near:
            degree = self.parameters.neighbours
            self._near[place] = neighbours_of(place, self.count, degree, self.graph_seed)
        return self._near[place]

    @cached_property
    def _near(self) -> dict[int, tuple[int, ...]]:
        return {}

    def key_of(self, place: int) -> bytes:
        """The identity key of the client at `place`."""
        return self.roster.keys[self.parameters.cohort[place]]

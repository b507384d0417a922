"""Key records that clients advertise in R0: signed, usable, and each key of one client only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flctl_secagg.crypto.primitives import KEY_BYTES, is_signed, is_usable
from flctl_secagg.protocol.derived_keys import RECORD_BYTES
from flctl_secagg.protocol.past import HEAD_BYTES
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import keys_text
from flctl_secagg.server.disputes import holds_its_keys

__all__ = ["AdvertisedKeys"]


@dataclass(slots=True)
class AdvertisedKeys:
    """Accepted messages of R0 by the client's position. `note` receives the reason for which a client is left out."""

    session: Session
    note: Callable[[str], None]
    _bodies: dict[int, bytes] = field(default_factory=dict, repr=False)
    _holders: dict[bytes, int] = field(default_factory=dict, repr=False)
    """Session key -> the client that advertised it first."""

    @property
    def records(self) -> dict[int, bytes]:
        """Each client's key record."""
        return {position: body[:RECORD_BYTES] for position, body in self._bodies.items()}

    def head(self, position: int) -> bytes:
        """Head of the past that a client remembers."""
        return self._bodies[position][RECORD_BYTES : RECORD_BYTES + HEAD_BYTES]

    def _client(self, position: int) -> str:
        return self.session.parameters.cohort[position]

    def take(self, position: int, body: bytes) -> None:
        """Keeps a client's record if it is signed, and its keys are usable and no other client's. Of two clients with
        one key, the one that proves possession stays: a client that copies the keys of another has no such proof."""
        client, keys = self._client(position), {body[:KEY_BYTES], body[KEY_BYTES : 2 * KEY_BYTES]}
        text = keys_text(self.session.sid, client, body)
        if not is_signed(self.session.key_of(position), body[3 * KEY_BYTES : RECORD_BYTES], text):
            self.note(f"client '{client}' is left out: it did not sign its keys")
            return
        if len(keys) < 2 or not all(is_usable(key) for key in keys):
            self.note(f"client '{client}' is left out: its keys are of low order, or the same")
            return
        others = {self._holders[key] for key in keys if key in self._holders}
        if others and not holds_its_keys(self.session, position, body):
            self.note(f"client '{client}' is left out: it advertised keys of another client")
            return
        for other in others:
            if holds_its_keys(self.session, other, self._bodies[other]):
                self.note(f"client '{client}' is left out: it has keys in common with client '{self._client(other)}'")
                return
        for other in others:
            self.note(f"client '{self._client(other)}' is left out: it advertised keys of another client")
            del self._bodies[other]
            self._holders = {key: holder for key, holder in self._holders.items() if holder != other}
        self._holders |= dict.fromkeys(keys, position)
        self._bodies[position] = body

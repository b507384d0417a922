"""Disputes about shares and keys: each evidence names one guilty client, or two that contradict each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from flctl_secagg.crypto.primitives import KEY_BYTES, SIGNATURE_BYTES, is_signed, possesses
from flctl_secagg.protocol.derived_keys import RECORD_BYTES
from flctl_secagg.protocol.parcels import PARCEL_BYTES, fits, is_dealt, key_tag, opened_shares, tag_of
from flctl_secagg.protocol.past import HEAD_BYTES
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import abort_text, opened_text, possession_text, shares_text

__all__ = ["COMPLAINT_BYTES", "Evidence", "Ruling", "holds_its_keys"]

_ACCUSED, _HEARD = 4, 32
COMPLAINT_BYTES = _ACCUSED + _HEARD + KEY_BYTES + SIGNATURE_BYTES
"""Size of a complaint: the accused's position, SHA-256 of the parcels delivered, the pair's key, signature."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """Decision on a complaint: the guilty client, if there is one, and the reason."""

    guilty: int | None
    reason: str


@dataclass(slots=True)
class Evidence:
    """Messages of one session that disputes are decided by.

    `keys`, `said`: by client, the keys that it was told in R1 and its reply. `delivered`, `asked`, `answers`: the
    parcels forwarded to it in R2, the request of R4, and its reply.
    """

    session: Session
    keys: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    said: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    parcels: dict[int, dict[int, bytes]] = field(default_factory=dict, repr=False)
    delivered: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    asked: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    answers: dict[int, bytes] = field(default_factory=dict, repr=False)

    def deal(self, position: int, receivers: list[int], said: bytes) -> None:
        """Adds a dealer's parcels: those for its receivers, in order, in its reply of R1."""
        starts = range(0, len(receivers) * PARCEL_BYTES, PARCEL_BYTES)
        self.parcels[position] = {
            peer: said[start : start + PARCEL_BYTES] for peer, start in zip(receivers, starts, strict=True)
        }

    def contradictions(self) -> list[tuple[int, int]]:
        """Pairs of clients that committed to different keys of their pair. No client is in two of them, so that one
        that lies about many pairs takes one other client along at most."""
        found: list[tuple[int, int]] = []
        seen: set[int] = set()
        for one, parcels in sorted(self.parcels.items()):
            for other in parcels:
                back = self.parcels.get(other)
                if other < one or back is None or one in seen or other in seen:
                    continue
                if tag_of(parcels, other) != tag_of(back, one):
                    found.append((one, other))
                    seen |= {one, other}
        return found

    def rule(self, accuser: int, complaint: bytes) -> Ruling:
        """Decides a complaint about a parcel."""
        name = self.session.parameters.cohort
        signed, signature = complaint[:-SIGNATURE_BYTES], complaint[-SIGNATURE_BYTES:]
        accused = int.from_bytes(complaint[:_ACCUSED], "big")
        heard, key = complaint[_ACCUSED : _ACCUSED + _HEARD], signed[_ACCUSED + _HEARD :]
        if not is_signed(self.session.key_of(accuser), signature, abort_text(self.session.sid, name[accuser], signed)):
            return Ruling(accuser, f"client '{name[accuser]}' sent a complaint without its signature")
        if accuser not in self.parcels.get(accused, {}):
            return Ruling(accuser, f"client '{name[accuser]}' complained about a client that sent it no shares")
        return self._ruled(accuser, accused, heard, key)

    def _ruled(self, accuser: int, accused: int, heard: bytes, key: bytes) -> Ruling:
        name = self.session.parameters.cohort
        about = f"client '{name[accuser]}' complained about the shares of client '{name[accused]}'"
        if hashlib.sha256(self.delivered[accuser]).digest() != heard:
            return Ruling(None, f"{about}: they were changed on their way")
        parcel = self.parcels[accused][accuser]
        if not self.signed_shares(accused) or not is_dealt(self.session, parcel, accused, accuser):
            return Ruling(accused, f"{about}: the dealer did not sign them")
        if key_tag(self.session, key, accuser, accused) != tag_of(self.parcels[accused], accuser):
            return Ruling(accuser, f"{about}, and withheld the key that would show it")
        if opened_shares(self.session, key, accused, accuser, parcel) is None:
            return Ruling(accused, f"{about}: the dealer signed shares that are invalid")
        return Ruling(accuser, f"{about}, which are valid")

    def fits(self, owner: int, sender: int, which: int, share: bytes) -> bool:
        """True if a share that a client opened is the one that its owner signed for it (`which`: 0 of b, 1 of s)."""
        return fits(self.session, self.parcels[owner][sender], owner, sender, which, share)

    def signed_shares(self, position: int) -> bool:
        """True if a client signed its parcels."""
        said = self.said[position]
        text = shares_text(
            self.session.sid, self.session.parameters.cohort[position], self.keys[position], said[:-SIGNATURE_BYTES]
        )
        return is_signed(self.session.key_of(position), said[-SIGNATURE_BYTES:], text)

    def signed_opening(self, position: int) -> bool:
        """True if a client signed the shares that it opened."""
        said = self.answers[position]
        text = opened_text(
            self.session.sid, self.session.parameters.cohort[position], self.asked[position], said[:-SIGNATURE_BYTES]
        )
        return is_signed(self.session.key_of(position), said[-SIGNATURE_BYTES:], text)

    def unsigned(self) -> list[int]:
        """Clients with parcels or opened shares that they did not sign. Each check takes as long as one of R2's."""
        found = {position for position in self.said if not self.signed_shares(position)}
        return sorted(found | {position for position in self.answers if not self.signed_opening(position)})


def holds_its_keys(session: Session, position: int, body: bytes) -> bool:
    """True if a client proved that it has the private keys of the record that it advertised."""
    start = RECORD_BYTES + HEAD_BYTES
    text = possession_text(session.sid, session.parameters.cohort[position], body, body[RECORD_BYTES:start])
    keys = (body[:KEY_BYTES], body[KEY_BYTES : 2 * KEY_BYTES])
    proofs = (body[start : start + SIGNATURE_BYTES], body[start + SIGNATURE_BYTES :])
    return all(possesses(key, proof, text) for key, proof in zip(keys, proofs, strict=True))

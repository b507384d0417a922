"""Parcels: a dealer's two shares for one receiver, sealed, with commitments and the dealer's signature (R1).

The server forwards a parcel's first part, and compares the last: both clients of a pair commit to the one key that
seals their shares. Afterwards each dispute has one guilty party. A receiver that complains names the key: if it is not
the one committed to, or opens shares that fit the commitments, the receiver lied; else the dealer did. A share that is
opened later either fits the dealer's commitment, or its sender changed it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.primitives import KEY_BYTES, SIGNATURE_BYTES, bound, is_signed, sealed, unsealed
from flctl_secagg.protocol.derived_keys import BOX_BYTES, PAIR, box_data
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import parcel_text

__all__ = [
    "DELIVERED_BYTES",
    "PARCEL_BYTES",
    "Shares",
    "fits",
    "is_dealt",
    "key_tag",
    "opened_shares",
    "sealed_shares",
    "tag_of",
]

_GOODS = BOX_BYTES + 2 * KEY_BYTES
DELIVERED_BYTES = _GOODS + SIGNATURE_BYTES
"""Size of what a receiver is delivered: sealed shares, two commitments, signature."""
PARCEL_BYTES = DELIVERED_BYTES + KEY_BYTES
"""Size of what a dealer sends: the same, and a commitment to the key of the pair."""
Shares = tuple[int, int]
"""Shares of b and of s."""
_PLACES = struct.Struct(">IIB")


def sealed_shares(session: Session, key: bytes, dealer: int, receiver: int, shares: Shares) -> bytes:
    """Seals the shares for a receiver; returns them with their commitments. The signature comes after them."""
    x = session.neighbours(dealer).index(receiver) + 1
    written = [shamir.written(share) for share in shares]
    box = sealed(key, PAIR.pack(x, *written), box_data(session, dealer, receiver))
    return box + b"".join(_commitment(session, dealer, receiver, which, one) for which, one in enumerate(written))


def opened_shares(session: Session, key: bytes, dealer: int, receiver: int, parcel: bytes) -> bytes | None:
    """Unseals the shares of b and s in a parcel, 33 bytes each; None if they cannot be read, belong to another place of
    the polynomials, or do not fit their commitments."""
    plain = unsealed(key, parcel[:BOX_BYTES], box_data(session, dealer, receiver))
    if plain is None:
        return None
    x, *written = PAIR.unpack(plain)
    right = x == session.neighbours(dealer).index(receiver) + 1
    right = right and all(shamir.read_share(one) is not None for one in written)
    right = right and all(fits(session, parcel, dealer, receiver, which, one) for which, one in enumerate(written))
    return b"".join(written) if right else None


def fits(session: Session, parcel: bytes, dealer: int, receiver: int, which: int, share: bytes) -> bool:
    """True if a share (33 bytes; `which`: 0 of b, 1 of s) is the one that the dealer committed to."""
    at = BOX_BYTES + which * KEY_BYTES
    return _commitment(session, dealer, receiver, which, share) == parcel[at : at + KEY_BYTES]


def is_dealt(session: Session, parcel: bytes, dealer: int, receiver: int) -> bool:
    """True if the dealer signed this parcel for this receiver."""
    cohort = session.parameters.cohort
    text = parcel_text(session.sid, cohort[dealer], cohort[receiver], parcel[:_GOODS])
    return is_signed(session.key_of(dealer), parcel[_GOODS:DELIVERED_BYTES], text)


def key_tag(session: Session, key: bytes, one: int, other: int) -> bytes:
    """Commitment to the key of a pair; both clients of the pair compute the same."""
    return hashlib.sha256(bound(b"pair", session.sid, min(one, other), max(one, other), key)).digest()


def tag_of(parcels: Mapping[int, bytes], receiver: int) -> bytes:
    """Returns the commitment to the key of the pair in a dealer's parcel for a receiver."""
    return parcels[receiver][DELIVERED_BYTES:]


def _commitment(session: Session, dealer: int, receiver: int, which: int, share: bytes) -> bytes:
    """SHA-256 commitment to a share, its session, dealer and receiver. Hiding, as a share has 256 random bits."""
    digest = session.share_digest.copy()
    digest.update(_PLACES.pack(dealer, receiver, which) + share)
    return digest.digest()

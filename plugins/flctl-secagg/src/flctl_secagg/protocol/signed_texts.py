"""Texts that clients sign in a session, each bound to the session id and to one purpose.

A signature also covers digests of the message that is answered and, from R2 on, of the shares that the client sent:
a server cannot record that a client heard or said anything else.
"""

from __future__ import annotations

import hashlib

from flctl_secagg.crypto.primitives import KEY_BYTES, bound

__all__ = [
    "abort_text",
    "agreed_text",
    "keys_text",
    "masked_text",
    "opened_text",
    "parcel_text",
    "possession_text",
    "server_text",
    "shares_text",
]

Body = bytes | bytearray | memoryview


def server_text(client: str, message: Body) -> bytes:
    """Text that the server signs for each message to a client. The message has the session id and its kind."""
    return bound(b"server", client.encode(), _digest(message))


def keys_text(sid: bytes, client: str, record: bytes) -> bytes:
    """Text that a client signs to authenticate its public keys and its commitment (R0)."""
    return bound(b"keys", sid, client.encode(), record[: 3 * KEY_BYTES])


def possession_text(sid: bytes, client: str, record: bytes, head: bytes) -> bytes:
    """Text that a client signs with each session key, to prove that the key is its own and no copy (R0). `head` is that
    of the past that it remembers."""
    return bound(b"possession", sid, client.encode(), record[: 3 * KEY_BYTES], head)


def parcel_text(sid: bytes, dealer: str, receiver: str, goods: Body) -> bytes:
    """Text that a dealer signs for one receiver: its sealed shares and the commitments to them (R1)."""
    return bound(b"parcel", sid, dealer.encode(), receiver.encode(), _digest(goods))


def shares_text(sid: bytes, client: str, heard: Body, said: Body) -> bytes:
    """Text that a client signs to authenticate all its parcels, and the keys that it was told (R1)."""
    return bound(b"shares", sid, client.encode(), _digest(heard), _digest(said))


def masked_text(sid: bytes, client: str, shared: bytes, heard: Body, packed: Body) -> bytes:
    """Text that a client signs to authenticate its masked vector, the parcels that it was delivered, and those that it
    sent before (R2). `shared` is the SHA-256 of the latter."""
    return bound(b"masked", sid, client.encode(), shared, _digest(heard), _digest(packed))


def abort_text(sid: bytes, client: str, complaint: Body) -> bytes:
    """Text that a client signs to authenticate its complaint about a parcel (R2)."""
    return bound(b"abort", sid, client.encode(), _digest(complaint))


def agreed_text(sid: bytes, survivors: Body) -> bytes:
    """Text that a client signs to agree to the list of survivors (R3)."""
    return bound(b"survivors", sid, _digest(survivors))


def opened_text(sid: bytes, client: str, heard: Body, said: Body) -> bytes:
    """Text that a client signs to authenticate the shares that it opens, and the request for them (R4)."""
    return bound(b"opened", sid, client.encode(), _digest(heard), _digest(said))


def _digest(body: Body) -> bytes:
    return hashlib.sha256(body).digest()

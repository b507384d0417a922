"""Wire format of messages: a fixed header and parts of fixed sizes, so that the length is checked before parsing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flctl import ProtocolError
from flctl.errors import counted

__all__ = [
    "ABORT",
    "ADVERTISE",
    "AGREED",
    "DELIVER",
    "HEAD",
    "HELLO",
    "KEYS",
    "MASKED",
    "MOST_HELLO",
    "OPENED",
    "SHARES",
    "SURVIVORS",
    "UNMASK",
    "bitmap",
    "frame",
    "links_first",
    "members",
    "opened",
    "phase_of",
    "read_links",
    "read_records",
    "records",
    "sid_of",
    "version_error",
    "with_signature",
    "without_signature",
]

_NAME, _VERSION = b"FLSA", 1
MAGIC = _NAME + bytes((_VERSION,))
HELLO, KEYS, DELIVER, SURVIVORS, UNMASK = 1, 2, 3, 4, 5
ADVERTISE, SHARES, MASKED, AGREED, OPENED, ABORT = 17, 18, 19, 20, 21, 31
_SID = 32
_SIGNED, _SIGNATURE = 0x40, 64
HEAD = len(MAGIC) + 1 + _SID
"""Size of the header in bytes: magic, kind, session id."""
_INDEX = 4
MOST_HELLO = 4 << 20
"""Largest size of a session's parameters, in bytes: room for the ids of many thousands of clients."""


def frame(kind: int, sid: bytes, *body: bytes | bytearray) -> bytes:
    """Builds one message of a session; the parts of its body are copied once."""
    return b"".join((MAGIC, bytes((kind,)), sid, *body))


def version_error(mine: str, other: str) -> ProtocolError:
    """Returns the error for a message in another version of the protocol than this side's."""
    return ProtocolError(
        f"this side speaks version {mine} of secure aggregation, and the other side version {other}",
        hint="Upgrade flctl-secagg where the version is lower.",
    )


def with_signature(message: bytes, signature: bytes) -> bytes:
    """Returns a message of the server with its signature, and the flag that says so."""
    at = len(MAGIC)
    return message[:at] + bytes((message[at] | _SIGNED,)) + message[at + 1 :] + signature


def without_signature(message: bytes) -> tuple[bytes, bytes | None]:
    """Returns a message as it was signed, and its signature; None if it has none."""
    at = len(MAGIC)
    if len(message) < HEAD + _SIGNATURE or not message[at] & _SIGNED:
        return message, None
    plain = message[:at] + bytes((message[at] & ~_SIGNED,)) + message[at + 1 : -_SIGNATURE]
    return plain, bytes(message[-_SIGNATURE:])


def phase_of(message: bytes) -> int:
    """Returns the kind of a message. Raises ProtocolError if the bytes are not a message of this protocol."""
    if len(message) > len(_NAME) and message.startswith(_NAME) and message[len(_NAME)] != _VERSION:
        raise version_error(str(_VERSION), str(message[len(_NAME)]))
    if len(message) < HEAD or message[: len(MAGIC)] != MAGIC:
        raise ProtocolError(f"{len(message)} bytes are not a message of secure aggregation")
    return message[len(MAGIC)]


def sid_of(message: bytes) -> bytes:
    """Returns a message's session id. Raises ProtocolError if the bytes are not a message of this protocol."""
    phase_of(message)
    return message[HEAD - _SID : HEAD]


def opened(message: bytes, kind: int, sid: bytes | None, least: int, most: int) -> memoryview:
    """Returns the body of a message. Raises ProtocolError if it is of another kind or session (`sid` None: any), or if
    the body is not `least` to `most` bytes long."""
    if not HEAD + least <= len(message) <= HEAD + most:
        raise ProtocolError(f"a message has {len(message)} bytes, expected {HEAD + least} to {HEAD + most}")
    found = phase_of(message)
    if found != kind:
        raise ProtocolError(f"a message of kind {found} arrived, expected {kind}")
    if sid is not None and message[HEAD - _SID : HEAD] != sid:
        raise ProtocolError("a message belongs to another session")
    return memoryview(message)[HEAD:]


def records(items: Iterable[tuple[int, bytes]]) -> bytes:
    """Concatenates (position in the cohort, bytes of one fixed size), by ascending position."""
    return b"".join(position.to_bytes(_INDEX, "big") + data for position, data in sorted(items))


def read_records(body: memoryview, size: int, most: int, count: int) -> dict[int, bytes]:
    """Parses what `records` returned. Raises ProtocolError for more than `most` records, or if positions are not
    ascending and below `count`."""
    whole = _INDEX + size
    if len(body) % whole or len(body) > most * whole:
        raise ProtocolError(
            f"a list of {len(body)} bytes is not a list of at most {counted(most, 'record')} of {whole} bytes"
        )
    found: dict[int, bytes] = {}
    last = -1
    for start in range(0, len(body), whole):
        position = int.from_bytes(body[start : start + _INDEX], "big")
        if not last < position < count:
            raise ProtocolError(
                "a list of clients has a duplicate, is out of order, or names a client outside of the cohort"
            )
        found[position] = bytes(body[start + _INDEX : start + whole])
        last = position
    return found


def links_first(links: bytes, body: bytes) -> bytes:
    """Encodes links of the past, with their length before them, and the rest of a body."""
    return len(links).to_bytes(_INDEX, "big") + links + body


def read_links(body: memoryview, size: int, most: int) -> tuple[bytes, memoryview]:
    """Parses what `links_first` returned: the links and the rest. Raises ProtocolError if the links are not whole ones
    of `size` bytes, or more than `most`."""
    length = int.from_bytes(body[:_INDEX], "big")
    if length % size or length > min(most * size, len(body) - _INDEX):
        raise ProtocolError(f"{length} bytes are not up to {most} links of {size} bytes")
    return bytes(body[_INDEX : _INDEX + length]), body[_INDEX + length :]


def bitmap(positions: Iterable[int], count: int) -> bytes:
    """Encodes positions as one bit for each of the cohort's `count` clients."""
    raw = bytearray((count + 7) // 8)
    for position in positions:
        raw[position // 8] |= 1 << (position % 8)
    return bytes(raw)


def members(raw: Sequence[int] | memoryview, count: int) -> frozenset[int]:
    """Returns the positions whose bits are set. Raises ProtocolError for a wrong length, or bits beyond `count`."""
    if len(raw) != (count + 7) // 8 or (count % 8 and raw[-1] >> (count % 8)):
        raise ProtocolError("a list of survivors is not one bit for each client of the cohort")
    return frozenset(position for position in range(count) if raw[position // 8] >> (position % 8) & 1)

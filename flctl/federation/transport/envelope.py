"""Envelopes: the signed headers of all that passes between a site and a coordinator.

An envelope is a statement of at most 64 KiB that its sender signs. Large content lies in blobs, which the envelope
names by their digests; the key of each is sealed to the envelope's one recipient. The hub reads envelopes and can
neither forge them nor open their blobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Member, Roster
from flctl.federation.identity.statements import Signed, sign, verify
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.tasks import is_task_id

__all__ = [
    "ENVELOPE_PURPOSE",
    "MOST_ENVELOPE",
    "BlobRef",
    "Envelope",
    "Kind",
    "check_sender",
    "expired",
    "key_context",
    "open_envelope",
    "read_envelope",
    "write_envelope",
]

VERSION = 1
ENVELOPE_PURPOSE = "flctl/envelope/1"
MOST_ENVELOPE = 64 << 10
MOST_BLOBS = 64
MOST_BYTES = 1 << 50
Kind = Literal["task", "reply", "notice", "plan", "decision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FROM_COORDINATOR = frozenset({"task", "notice", "plan"})
"""Kinds that a coordinator sends; the others come from sites. A notice may come from both."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A sealed file: SHA-256 and size of the ciphertext, SHA-256 of the plaintext, and the key sealed to the recipient
    (hexadecimal)."""

    sha256: str
    bytes: int
    plaintext: str
    key: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """The signed header of a message.

    `plan` is a plan's digest, `task` the id of a task or empty, `until` an ISO time with zone, `reply_bytes` the
    largest total size of a reply's blobs (tasks alone), `body` small JSON values.
    """

    federation: str
    run: str
    plan: str
    sender: str
    recipient: str
    kind: Kind
    until: str
    round: int = 0
    phase: str = ""
    attempt: int = 0
    task: str = ""
    blobs: tuple[BlobRef, ...] = ()
    reply_bytes: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    v: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Returns the statement to sign."""
        blobs = [{"bytes": b.bytes, "key": b.key, "plaintext": b.plaintext, "sha256": b.sha256} for b in self.blobs]
        names = ("v", "federation", "run", "plan", "kind", "round", "phase", "attempt", "task", "until", "reply_bytes")
        values = {name: getattr(self, name) for name in names}
        return {**values, "from": self.sender, "to": self.recipient, "blobs": blobs, "body": dict(self.body)}


def key_context(envelope_run: str, blob_sha256: str) -> bytes:
    """Returns the context to which a blob's key is sealed: a sealed key of another run or blob does not open."""
    return f"flctl/blob-key/1 {envelope_run} {blob_sha256}".encode()


def write_envelope(identity: Identity, envelope: Envelope) -> bytes:
    """Returns the signed envelope. Raises Refused (`envelope-size`) above 64 KiB: large content belongs in a blob."""
    text = sign(identity, ENVELOPE_PURPOSE, envelope.to_json())
    if len(text) > MOST_ENVELOPE:
        raise Refused(Reason.ENVELOPE_SIZE)
    return text


def open_envelope(text: bytes) -> tuple[Envelope, Signed]:
    """Returns an envelope and its signature, checked for size, form and signature; not for its sender.

    Raises Refused (`envelope-size`, `envelope-form`, `envelope-signature`).
    """
    if len(text) > MOST_ENVELOPE:
        raise Refused(Reason.ENVELOPE_SIZE)
    try:
        signed = verify(text, ENVELOPE_PURPOSE, None, MOST_ENVELOPE)
    except UntrustedError as error:
        raise Refused(_why(error)) from error
    return _envelope(signed.statement), signed


def read_envelope(text: bytes, roster: Roster, recipient: str, now: datetime | None = None) -> Envelope:
    """Returns the envelope of a member of the roster to `recipient`. Every other is refused with its reason."""
    envelope, signed = open_envelope(text)
    if envelope.federation != roster.federation:
        raise Refused(Reason.ENVELOPE_FEDERATION)
    check_sender(envelope, signed.by, roster)
    if envelope.recipient != recipient:
        raise Refused(Reason.ENVELOPE_RECIPIENT)
    if expired(envelope.until, now):
        raise Refused(Reason.ENVELOPE_EXPIRED)
    return envelope


def check_sender(envelope: Envelope, by: bytes, roster: Roster) -> None:
    """Raises Refused (`envelope-sender`) unless the key is that of a member who may send this kind,
    (`envelope-signature`) if the key is another's."""
    member = _sender(envelope, roster)
    if member is None:
        raise Refused(Reason.ENVELOPE_SENDER)
    if member.identity.signing != by:
        raise Refused(Reason.ENVELOPE_SIGNATURE)


def _sender(envelope: Envelope, roster: Roster) -> Member | None:
    if envelope.kind in FROM_COORDINATOR and envelope.sender in roster.coordinators:
        return roster.coordinators[envelope.sender]
    if envelope.kind not in ("task", "plan"):
        return roster.sites.get(envelope.sender)
    return None


def expired(until: str, now: datetime | None = None) -> bool:
    """True after the time `until`."""
    return datetime.fromisoformat(until) < (now or datetime.now(UTC))


def _why(error: UntrustedError) -> Reason:
    """The reason for refusing a statement that did not verify."""
    return Reason.ENVELOPE_FORM if error.reason in ("format", "purpose") else Reason.ENVELOPE_SIGNATURE


def _envelope(statement: Mapping[str, Any]) -> Envelope:
    """Raises Refused (`envelope-form`) unless all fields are there, and no other, each of its type and in its range."""
    expected = set(_TYPES) | {"blobs"}
    if set(statement) != expected or any(type(statement[name]) is not kind for name, kind in _TYPES.items()):
        raise Refused(Reason.ENVELOPE_FORM)
    blobs = statement["blobs"]
    if type(blobs) is not list or len(blobs) > MOST_BLOBS:
        raise Refused(Reason.ENVELOPE_FORM)
    values = {_FIELDS.get(name, name): value for name, value in statement.items() if name != "blobs"}
    envelope = Envelope(**values, blobs=tuple(_blob(blob) for blob in blobs))
    if not _sound(envelope):
        raise Refused(Reason.ENVELOPE_FORM)
    return envelope


_FIELDS = {"from": "sender", "to": "recipient"}
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("federation", "run", "plan", "from", "to", "kind", "phase", "task", "until"), str),
    **dict.fromkeys(("v", "round", "attempt", "reply_bytes"), int),
    "body": dict,
}
_BLOB: Mapping[str, type] = {"sha256": str, "bytes": int, "plaintext": str, "key": str}


def _blob(value: Any) -> BlobRef:
    if type(value) is not dict or set(value) != set(_BLOB) or any(type(value[k]) is not t for k, t in _BLOB.items()):
        raise Refused(Reason.ENVELOPE_FORM)
    ref = BlobRef(**value)
    if not (is_task_id(ref.sha256) and is_task_id(ref.plaintext) and 0 <= ref.bytes <= MOST_BYTES):
        raise Refused(Reason.ENVELOPE_FORM)
    return ref


def _sound(envelope: Envelope) -> bool:
    """True if version, kind, numbers and time are possible ones."""
    try:
        zoned = datetime.fromisoformat(envelope.until).tzinfo is not None
    except ValueError:
        return False
    digests = all(not text or is_task_id(text) for text in (envelope.plan, envelope.task))
    counts = all(0 <= count <= MOST_BYTES for count in (envelope.round, envelope.attempt, envelope.reply_bytes))
    needs_task = envelope.kind in ("task", "reply") and not envelope.task
    return zoned and digests and counts and not needs_task and envelope.v == VERSION and envelope.kind in KINDS

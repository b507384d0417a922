"""Verification of a recorded session: replays the protocol with the recorded replies, and compares each message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flctl import FlctlError, IntegrityError, Phase
from flctl.errors import counted
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto.primitives import SIGNATURE_BYTES, is_signed
from flctl_secagg.encoding.packing import pack
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.past import Past
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import server_text
from flctl_secagg.server.attempt import Attempt, AttemptError, Unmasked, decoded_sum
from flctl_secagg.transcripts.recording import CAME, PAST, PUBLISHED, ROSTER, SENT, Entry, read_entries, session_of

__all__ = ["Verdict", "verify"]

_HEAD = 38
_LEAST_BYTES = 2560
"""Bytes needed for the test: an expected count of ten for each byte value. Shorter vectors are not tested."""
_LIMIT = 255 + 8 * np.sqrt(2 * 255)
"""Limit of the chi-squared statistic (255 degrees of freedom): its mean plus eight standard deviations."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of verifying a transcript.

    `trains` is False for sums over clients' rows, as of an evaluation; they change no model. `refused` is the reason if
    the session gave no sum; `survivors` is empty then. `masked` counts vectors whose bytes pass a test of uniformity,
    `short` those too short for the test. `unsigned` are clients that did not sign the shares that they dealt or opened;
    the server checks these signatures only if shares are disputed.
    """

    file: str
    run: str
    round: int
    attempt: int
    mode: str
    trains: bool
    sid: str
    previous: str
    operator: str
    asked: int
    survivors: tuple[str, ...]
    masked: int
    short: int
    refused: str | None
    unsigned: tuple[str, ...]
    notes: tuple[str, ...]


def verify(path: Path, operator: bytes | None = None, *, cut: bool = False) -> Verdict:
    """Verifies a transcript. `operator`: the pinned public key of the operator that signs rosters. `cut` accepts a
    transcript that ends before its session does, since the server was stopped.

    Raises IntegrityError if a message to a client deviates from the protocol, the published sum does not follow from
    the replies, or a vector does not look masked.
    """
    try:
        return _verify(path, operator, cut=cut)
    except FlctlError as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"{path.name}: {error.message}") from error


def _verify(path: Path, operator: bytes | None, *, cut: bool) -> Verdict:
    entries = list(read_entries(path, cut=cut))
    published = [entry for entry in entries if entry.kind == PUBLISHED]
    session = _session(path, entries, operator)
    past = _past(path, entries, session)
    notes: list[str] = []
    unsigned: list[str] = []
    played = _played(
        path, session, past, [e for e in entries if e.kind not in (ROSTER, PUBLISHED, PAST)], (notes, unsigned), cut=cut
    )
    if cut and isinstance(played, Unmasked) and not published:
        played = "the server was stopped before it published the sum"
    if (isinstance(played, Unmasked), len(published)) not in ((True, 1), (False, 0)):
        raise IntegrityError(
            f"{path.name}: {counted(len(published), 'sum')} published, which contradicts the outcome of the session"
        )
    if isinstance(played, Unmasked) and pack(played.words.astype("<u8"), 64) != published[0].message:
        raise IntegrityError(f"{path.name}: the published sum does not match the clients' messages")
    masked, short = _count_masked(path, entries)
    parameters = session.parameters
    return Verdict(
        file=path.name,
        run=parameters.run,
        round=parameters.round,
        attempt=parameters.attempt,
        mode=parameters.mode,
        trains=parameters.ask == "train",
        sid=session.sid.hex(),
        previous=parameters.previous,
        operator=session.roster.operator.hex(),
        asked=session.count,
        survivors=played.survivors if isinstance(played, Unmasked) else (),
        masked=masked,
        short=short,
        refused=None if isinstance(played, Unmasked) else played,
        unsigned=tuple(unsigned),
        notes=tuple(notes),
    )


def _past(path: Path, entries: list[Entry], session: Session) -> Past:
    """Returns the recorded past of a session. Raises IntegrityError if the session's id binds another one."""
    found = [Past(entry.message) for entry in entries if entry.kind == PAST]
    if len(found) != 1 or found[0].head.hex() != session.parameters.previous:
        raise IntegrityError(f"{path.name} does not have the past that its session binds")
    return found[0]


def _session(path: Path, entries: list[Entry], operator: bytes | None) -> Session:
    """Returns the recorded session, with its roster checked. Raises ProtocolError if every policy refuses it."""
    session = session_of(entries, path)
    session.roster.check(operator)
    # Attempt relies on checked parameters, such as sizes: those that every policy refuses are not replayed.
    anybody = Policy.laxest(session.roster.run or None)
    anybody.check(session.parameters, next(iter(session.parameters.cohort), ""), session.roster)
    return session


def _played(
    path: Path, session: Session, past: Past, entries: list[Entry], found: tuple[list[str], list[str]], *, cut: bool
) -> Unmasked | str:
    """Replays the session with the recorded replies. Returns its sum, or the reason why it gave no sum; adds to `found`
    the notes, and the clients with unsigned messages."""
    notes, unsigned = found
    attempt = Attempt(session, notes.append, past=past)
    played = _answered(path, attempt, entries, cut=cut)
    unsigned += [session.parameters.cohort[position] for position in attempt.evidence.unsigned()]
    return played


def _answered(path: Path, attempt: Attempt, entries: list[Entry], *, cut: bool) -> Unmasked | str:
    protocol, session = attempt.run(), attempt.session
    left = iter(_phases(entries))
    replies: Iterator[tuple[str, bytes]] | None = None
    try:
        while True:
            phase = protocol.send(replies)  # type: ignore[arg-type]  # a generator that has not started takes None
            sent, came = next(left, ([], []))
            if cut and not sent:
                return "the server was stopped before the session's end"
            _check_sent(path, phase, [_unsigned(path, session, entry) for entry in sent])
            replies = iter([(entry.client, entry.message) for entry in came])
    except StopIteration as finished:
        found: Unmasked | str = _possible(session, finished.value)
    except AttemptError as error:
        found = error.message
    if next(left, None) is not None:
        raise IntegrityError(f"{path.name}: the server continued after the end of the session")
    return found


def _possible(session: Session, unmasked: Unmasked) -> Unmasked | str:
    """Returns the sum, or the reason why honest clients cannot reach it; such a sum is never published."""
    try:
        decoded_sum(session, unmasked)
    except AttemptError as error:
        return error.message
    return unmasked


def _phases(entries: list[Entry]) -> Iterator[tuple[list[Entry], list[Entry]]]:
    """Yields the messages sent and received in each exchange."""
    sent: list[Entry] = []
    came: list[Entry] = []
    for entry in entries:
        if entry.way == SENT and sent and (came or entry.kind != sent[0].kind):
            yield sent, came
            sent, came = [], []
        (came if entry.way == CAME else sent).append(entry)
    if sent or came:
        yield sent, came


def _unsigned(path: Path, session: Session, entry: Entry) -> Entry:
    """Returns a message of the server without its signature. Raises IntegrityError if the signature is invalid."""
    key = bytes.fromhex(session.parameters.server)
    plain, signature = frames.without_signature(entry.message)
    if key and not is_signed(key, signature or b"", server_text(entry.client, plain)):
        raise IntegrityError(f"{path.name}: the server did not sign a message to client '{entry.client}'")
    return Entry(entry.way, entry.kind, entry.client, plain) if key else entry


def _check_sent(path: Path, phase: Phase, sent: list[Entry]) -> None:
    recorded = {entry.client: entry.message for entry in sent}
    for client in sorted(phase.messages.keys() | recorded.keys()):
        if recorded.get(client) != phase.messages.get(client) or len(recorded) != len(sent):
            raise IntegrityError(f"{path.name}: the server sent client '{client}' a message that violates the protocol")


def _count_masked(path: Path, entries: list[Entry]) -> tuple[int, int]:
    masked = short = 0
    for entry in entries:
        if (entry.way, entry.kind) != (CAME, frames.MASKED) or len(entry.message) <= _HEAD + SIGNATURE_BYTES:
            continue
        data = np.frombuffer(entry.message, np.uint8)[_HEAD + SIGNATURE_BYTES :]
        if data.size < _LEAST_BYTES:
            short += 1
            continue
        expected = data.size / 256
        if ((np.bincount(data, minlength=256) - expected) ** 2 / expected).sum() > _LIMIT:
            raise IntegrityError(f"{path.name}: the vector of client '{entry.client}' does not look masked")
        masked += 1
    return masked, short

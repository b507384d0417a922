"""Server side of protocol flctl-secagg/1: one session as a generator without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from flctl import Phase, ProtocolError
from flctl.errors import counted
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.masks import Stream, add_masks
from flctl_secagg.crypto.primitives import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    commitment,
    is_signed,
    loaded,
    public_of,
)
from flctl_secagg.encoding.packing import Words, lane, reduce, unpack
from flctl_secagg.encoding.vectors import Decoded
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.derived_keys import PROOF_BYTES, RECORD_BYTES, mask_seed, self_seed
from flctl_secagg.protocol.parcels import DELIVERED_BYTES, PARCEL_BYTES
from flctl_secagg.protocol.past import HEAD_BYTES, Past
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import agreed_text, masked_text, server_text
from flctl_secagg.server.advertised_keys import AdvertisedKeys
from flctl_secagg.server.disputes import COMPLAINT_BYTES, Evidence
from flctl_secagg.server.recovery import Opened, recover

__all__ = ["Attempt", "AttemptError", "Recorder", "Unmasked", "decoded_sum"]

Replies = Iterable[tuple[str, bytes]]
Exchange = Generator[Phase, Replies, dict[int, bytes]]
Note = Callable[[str], None]


class AttemptError(ProtocolError):
    """Failure of an attempt. `left`: clients of a possible next attempt. `opened`: True if shares were opened, which
    rules out another attempt."""

    def __init__(self, message: str, left: Iterable[str] = (), *, opened: bool = False) -> None:
        super().__init__(message, hint="The round has no result; its notes list the clients that dropped out.")
        self.left = tuple(left)
        self.opened = opened


class Recorder(Protocol):
    """Receives every message between the server and the clients."""

    def sent(self, kind: int, client: str, message: bytes) -> None:
        """Records a message to a client."""

    def came(self, kind: int, client: str, message: bytes) -> None:
        """Records a reply, before it is checked."""


@dataclass(frozen=True, slots=True)
class Unmasked:
    """Unmasked sum of the survivors' words, modulo 2^w, and the survivors."""

    words: Words = field(repr=False)
    survivors: tuple[str, ...]


@dataclass(slots=True)
class Attempt:
    """One session, from R0 to R4. It trusts no client: only a client's first reply to a phase counts, its length is
    checked before it is parsed, and a client with an invalid reply is left out."""

    session: Session
    note: Note
    recorder: Recorder | None = None
    objection: Callable[[tuple[str, ...]], str | None] = lambda survivors: None
    """Returns a reason not to sum over these survivors, or None; called before their list is fixed."""
    records: dict[int, bytes] = field(default_factory=dict, repr=False)
    shared: frozenset[int] = frozenset()
    survivors: tuple[str, ...] = ()
    """Clients whose masked vectors are in the sum, once their list is fixed."""
    past: Past = field(default_factory=Past, repr=False)
    """Links of the sessions before; their head is the session's `previous`."""
    sign: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    """Signs messages with the server's key; None if the session names no such key."""
    evidence: Evidence = field(init=False, repr=False)
    _blamed: set[int] = field(default_factory=set)
    _complained: set[int] = field(default_factory=set)
    _advertised: AdvertisedKeys = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._advertised = AdvertisedKeys(self.session, self.note)
        self.evidence = Evidence(self.session)

    def run(self) -> Generator[Phase, Replies, Unmasked]:
        """Yields each phase, receives its replies, and returns the sum. Raises AttemptError if the session fails."""
        self.records = yield from self._advertise()
        boxes = yield from self._share()
        total, alive = yield from self._sum(boxes)
        signatures = (yield from self._agree(alive)) if self._active else {}
        opened = yield from self._open(alive, signatures)
        self._unmask(total, alive, opened)
        names = self.session.parameters.cohort
        return Unmasked(
            reduce(total, self.session.parameters.bits), tuple(names[position] for position in sorted(alive))
        )

    @property
    def _active(self) -> bool:
        return self.session.parameters.mode == "active"

    def _client(self, position: int) -> str:
        return self.session.parameters.cohort[position]

    def _advertise(self) -> Exchange:
        """R0: proposes the parameters, and collects key records."""
        body = self.session.parameters.canonical()
        hello = dict.fromkeys(range(self.session.count), body)
        size = RECORD_BYTES + HEAD_BYTES + PROOF_BYTES
        for position, found in (yield from self._ask(frames.HELLO, hello, frames.ADVERTISE, lambda position: size)):
            self._advertised.take(position, found)
        return self._enough(self._advertised.records, self.session.parameters.minimum, "advertised keys")

    def _share(self) -> Exchange:
        """R1: sends each client the keys of its neighbours, and collects its encrypted shares for them."""
        asked = {position: self._near(position, self.records) for position in self.records}
        asked = {position: near for position, near in asked.items() if len(near) >= self.session.parameters.threshold}
        links = {position: self._links(position) for position in asked}
        keys = {
            position: frames.links_first(found, self._records_for(position, asked[position]))
            for position, found in links.items()
            if found is not None
        }
        replies = yield from self._ask(
            frames.KEYS, keys, frames.SHARES, lambda position: len(asked[position]) * PARCEL_BYTES + SIGNATURE_BYTES
        )
        self.evidence.keys, self.evidence.said = keys, dict(replies)
        for position, said in self.evidence.said.items():
            self.evidence.deal(position, asked[position], said)
        shared = dict(self.evidence.said)
        for pair in self.evidence.contradictions():
            one, other = (self._client(position) for position in pair)
            self.note(f"clients '{one}' and '{other}' are left out: one of them lies about the key of the pair")
            for position in pair:
                del shared[position]
        boxes = self._enough(shared, self.session.parameters.minimum, "shared their secrets")
        self.shared = frozenset(boxes)
        return boxes

    def _records_for(self, position: int, near: Iterable[int]) -> bytes:
        return frames.records((peer, self.records[peer]) for peer in (*near, position))

    def _links(self, position: int) -> bytes | None:
        """Returns the links that lead from the past that a client remembers to this session; None, with a note, if it
        remembers another past."""
        found = self.past.after(self._advertised.head(position))
        if found is None:
            self.note(f"client '{self._client(position)}' is left out: it remembers another past of the run")
        return found

    def _near(self, position: int, among: Iterable[int]) -> list[int]:
        present = among if isinstance(among, frozenset | dict) else frozenset(among)
        return [peer for peer in self.session.neighbours(position) if peer in present]

    def _sum(self, boxes: dict[int, bytes]) -> Generator[Phase, Replies, tuple[Words, frozenset[int]]]:
        """R2: forwards the encrypted shares; adds masked vectors to the sum as they arrive, without keeping them."""
        letters: dict[int, list[tuple[int, bytes]]] = {position: [] for position in boxes}
        for sender in boxes:
            for receiver, parcel in self.evidence.parcels[sender].items():
                if receiver in letters:
                    letters[receiver].append((sender, parcel[:DELIVERED_BYTES]))
        ready = {
            position: found for position, found in letters.items() if len(found) >= self.session.parameters.threshold
        }
        bodies = {position: frames.records(found) for position, found in ready.items()}
        self.evidence.delivered = bodies
        encoding, bits = self.session.encoding, self.session.parameters.bits
        total, alive = np.zeros(encoding.words, lane(bits)), set()
        size = SIGNATURE_BYTES + encoding.bytes
        for position, body in (yield from self._ask(frames.DELIVER, bodies, frames.MASKED, lambda position: size)):
            words = self._checked_words(position, body)
            if words is not None:
                np.add(total, words, out=total)
                alive.add(position)
        self._give_up_if_blamed(alive)
        least = max(self.session.parameters.survivors, self.session.parameters.threshold)
        self._enough(dict.fromkeys(sorted(alive), b""), least, "sent a masked vector")
        self._require_openers(frozenset(alive), frozenset(alive))
        self.survivors = tuple(self._client(position) for position in sorted(alive))
        if reason := self.objection(self.survivors):
            raise AttemptError(reason, self.survivors)
        return total, frozenset(alive)

    def _checked_words(self, position: int, body: bytes) -> Words | None:
        """Unpacks a masked vector; None, with a note, if its signature is invalid or it is malformed."""
        signature, packed = body[:SIGNATURE_BYTES], memoryview(body)[SIGNATURE_BYTES:]
        shared = hashlib.sha256(memoryview(self.evidence.said[position])[:-SIGNATURE_BYTES]).digest()
        text = masked_text(self.session.sid, self._client(position), shared, self.evidence.delivered[position], packed)
        if not is_signed(self.session.key_of(position), signature, text):
            self.note(f"client '{self._client(position)}' is left out: it did not sign its masked vector")
            return None
        try:
            return unpack(packed, self.session.parameters.bits, self.session.encoding.words)
        except ValueError:
            self.note(f"client '{self._client(position)}' is left out: its masked vector is malformed")
            return None

    def _agree(self, alive: frozenset[int]) -> Exchange:
        """R3: collects the survivors' signatures of the list of survivors."""
        survivors = frames.bitmap(alive, self.session.count)
        body = dict.fromkeys(sorted(alive), survivors)
        text = agreed_text(self.session.sid, survivors)
        replies = yield from self._ask(frames.SURVIVORS, body, frames.AGREED, lambda position: SIGNATURE_BYTES)
        signed = {position: sig for position, sig in replies if is_signed(self.session.key_of(position), sig, text)}
        return self._enough(signed, self.session.parameters.threshold, "signed the list of survivors")

    def _open(self, alive: frozenset[int], signatures: dict[int, bytes]) -> Generator[Phase, Replies, Opened]:
        """R4: collects shares of b of survivors, and of s of clients that dropped out; never both of one client."""
        survivors = frames.bitmap(alive, self.session.count)
        asked, threshold = sorted(signatures) if self._active else sorted(alive), self.session.parameters.threshold
        near = {position: self._near(position, signatures) for position in asked} if self._active else {}
        bodies = {
            position: survivors + frames.records((peer, signatures[peer]) for peer in near.get(position, ()))
            for position in asked
            if not self._active or len(near[position]) >= threshold
        }
        self._require_openers(alive, frozenset(bodies))
        held = {position: self._near(position, self.shared) for position in bodies}
        opened = Opened(threshold, partial(self._fits, alive))
        size, self.evidence.asked = shamir.SHARE_BYTES, bodies
        replies = yield from self._ask(
            frames.UNMASK, bodies, frames.OPENED, lambda p: len(held[p]) * size + SIGNATURE_BYTES
        )
        for position, body in replies:
            self.evidence.answers[position] = body
            for at, owner in enumerate(held[position]):
                share = shamir.read_share(body[at * size : (at + 1) * size])
                if share is not None:
                    opened.add(owner, self.session.neighbours(owner).index(position) + 1, position, share)
        return opened

    def _require_openers(self, alive: frozenset[int], askable: frozenset[int]) -> None:
        """Raises AttemptError if a needed secret has fewer than t neighbours left to open it. No share is open yet, so
        another attempt is possible."""
        needed = alive | {gone for gone in self.shared - alive if self._near(gone, alive)}
        for owner in sorted(needed):
            found = len(self._near(owner, askable))
            if found < self.session.parameters.threshold:
                message = f"client '{self._client(owner)}' has {counted(found, 'remaining neighbour')}"
                left = [self._client(position) for position in sorted(askable)]
                raise AttemptError(f"{message}, {self.session.parameters.threshold} are needed", left)

    def _unmask(self, total: Words, alive: frozenset[int], opened: Opened) -> None:
        """Removes the survivors' own masks, and their pairwise masks with clients that dropped out after R1."""
        try:
            add_masks(total, list(self._masks(alive, opened)))
        except ProtocolError as error:
            raise AttemptError(error.message, opened=True) from error
        finally:
            self._note_wrong_shares(opened)

    def _note_wrong_shares(self, opened: Opened) -> None:
        for position in sorted(opened.liars):
            signed = self.evidence.signed_opening(position)
            why = "signed shares that it was not dealt" if signed else "did not sign the shares that came from it"
            self.note(f"client '{self._client(position)}' {why}; others were used")
        for position in sorted(opened.dealers):
            signed = self.evidence.signed_shares(position)
            why = "signed and dealt wrong shares" if signed else "did not sign the shares that it dealt"
            self.note(f"client '{self._client(position)}' {why}")

    def _fits(self, alive: frozenset[int], owner: int, sender: int, share: int) -> bool:
        return self.evidence.fits(owner, sender, int(owner not in alive), shamir.written(share))

    def _masks(self, alive: frozenset[int], opened: Opened) -> Iterator[Stream]:
        for position in sorted(alive):
            yield (
                self_seed(
                    self.session, recover(opened, position, self._client(position), partial(self._is_b, position))
                ),
                False,
            )
        for gone in sorted(self.shared - alive):
            peers = self._near(gone, alive)
            if peers:
                private = loaded(recover(opened, gone, self._client(gone), partial(self._is_s, gone)))
                for peer in peers:
                    public = self.records[peer][KEY_BYTES : 2 * KEY_BYTES]
                    yield mask_seed(self.session, private, public, gone, peer), not peer < gone

    def _is_b(self, position: int, secret: bytes) -> bool:
        committed = self.records[position][2 * KEY_BYTES : 3 * KEY_BYTES]
        return commitment(secret, self.session.sid, self._client(position)) == committed

    def _is_s(self, position: int, secret: bytes) -> bool:
        return public_of(secret) == self.records[position][KEY_BYTES : 2 * KEY_BYTES]

    def _ask(
        self, kind: int, bodies: dict[int, bytes], answer: int, size: Callable[[int], int]
    ) -> Generator[Phase, Replies, Iterator[tuple[int, bytes]]]:
        """Runs one phase: sends a message to each client, and returns each one's first reply, if it is valid."""
        sid, cohort = self.session.sid, self.session.parameters.cohort
        messages = {cohort[position]: frames.frame(kind, sid, body) for position, body in bodies.items()}
        if self.sign is not None:
            messages = {
                client: frames.with_signature(message, self.sign(server_text(client, message)))
                for client, message in messages.items()
            }
        for client, message in messages.items() if self.recorder else ():
            self.recorder.sent(kind, client, message)  # type: ignore[union-attr]
        replies = yield Phase(messages, trains=kind == frames.DELIVER)
        return self._usable(replies, {cohort[position]: position for position in bodies}, kind, answer, size)

    def _usable(
        self, replies: Replies, positions: dict[str, int], kind: int, answer: int, size: Callable[[int], int]
    ) -> Iterator[tuple[int, bytes]]:
        heard: set[int] = set()
        for client, message in replies:
            if self.recorder is not None:
                self.recorder.came(answer, client, message)
            position = positions.get(client)
            if position is None or position in heard:
                continue
            heard.add(position)
            body = self._opened(position, message, kind, answer, size(position))
            if body is not None:
                yield position, body

    def _opened(self, position: int, message: bytes, kind: int, answer: int, size: int) -> bytes | None:
        """Returns a reply's body; None, with a note, if it is invalid or reports an unreadable share."""
        sid = self.session.sid
        try:
            if kind == frames.DELIVER and frames.phase_of(message) == frames.ABORT:
                complaint = frames.opened(message, frames.ABORT, sid, COMPLAINT_BYTES, COMPLAINT_BYTES)
                self._rule(position, bytes(complaint))
                return None
            body = bytes(frames.opened(message, answer, sid, size, size))
        except ProtocolError as error:
            self.note(f"client '{self._client(position)}' is left out: {error.message}")
            return None
        return body

    def _rule(self, accuser: int, complaint: bytes) -> None:
        """Decides a complaint about shares. The attempt is over; the guilty client is left out of the next one."""
        ruling = self.evidence.rule(accuser, complaint)
        self.note(ruling.reason)
        self._complained.add(accuser)
        self._blamed |= set() if ruling.guilty is None else {ruling.guilty}

    def _give_up_if_blamed(self, alive: Iterable[int]) -> None:
        if self._complained:
            left = [self._client(position) for position in sorted({*alive, *self._complained} - self._blamed)]
            raise AttemptError("a client complained about a share", left)

    def _enough(self, found: dict[int, bytes], least: int, did: str) -> dict[int, bytes]:
        """Returns `found` if it has at least `least` entries. Raises AttemptError if it has fewer."""
        if len(found) < least:
            left = [self._client(position) for position in sorted(found)]
            message = f"{len(found)} of {counted(self.session.count, 'client')} {did}, {least} are needed"
            raise AttemptError(message, left)
        return found


def decoded_sum(session: Session, unmasked: Unmasked) -> Decoded:
    """Decodes the sum. Raises AttemptError if honest clients cannot reach it; shares are open by then."""
    try:
        return session.encoding.decode(unmasked.words, len(unmasked.survivors))
    except ProtocolError as error:
        raise AttemptError(error.message, opened=True) from error

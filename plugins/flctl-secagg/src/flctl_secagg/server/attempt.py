"""Server side of protocol flctl-secagg/1: one session as a generator without I/O."""

from __future__ import annotations

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
    is_usable,
    loaded,
    public_of,
)
from flctl_secagg.encoding.packing import Words, lane, reduce, unpack
from flctl_secagg.encoding.vectors import Decoded
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.derived_keys import BOX_BYTES, RECORD_BYTES, mask_seed, self_seed
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import agreed_text, keys_text, masked_text
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
    _blamed: set[int] = field(default_factory=set)
    _keys: set[bytes] = field(default_factory=set, repr=False)

    def run(self) -> Generator[Phase, Replies, Unmasked]:
        """Yields each phase, receives its replies, and returns the sum. Raises AttemptError if the session fails."""
        self.records = yield from self._advertise()
        boxes = yield from self._share()
        total, alive = yield from self._sum(boxes)
        signatures = (yield from self._agree(alive)) if self._active else {}
        opened = yield from self._open(alive, signatures)
        self._unmask(total, alive, opened)
        names = self.session.parameters.cohort
        return Unmasked(reduce(total, self.session.parameters.bits), tuple(names[place] for place in sorted(alive)))

    @property
    def _active(self) -> bool:
        return self.session.parameters.mode == "active"

    def _client(self, place: int) -> str:
        return self.session.parameters.cohort[place]

    def _advertise(self) -> Exchange:
        """R0: proposes the parameters, and collects key records."""
        body = self.session.parameters.canonical()
        hello = dict.fromkeys(range(self.session.count), body)
        replies = yield from self._ask(frames.HELLO, hello, frames.ADVERTISE, lambda place: RECORD_BYTES)
        return self._enough(dict(replies), self.session.parameters.minimum, "advertised keys")

    def _share(self) -> Exchange:
        """R1: sends each client the keys of its neighbours, and collects its encrypted shares for them."""
        asked = {place: self._near(place, self.records) for place in self.records}
        asked = {place: near for place, near in asked.items() if len(near) >= self.session.parameters.threshold}
        keys = {
            place: frames.records((peer, self.records[peer]) for peer in (*near, place))
            for place, near in asked.items()
        }
        replies = yield from self._ask(frames.KEYS, keys, frames.SHARES, lambda place: len(asked[place]) * BOX_BYTES)
        boxes = self._enough(dict(replies), self.session.parameters.minimum, "shared their secrets")
        self.shared = frozenset(boxes)
        return boxes

    def _near(self, place: int, among: Iterable[int]) -> list[int]:
        present = among if isinstance(among, frozenset | dict) else frozenset(among)
        return [peer for peer in self.session.neighbours(place) if peer in present]

    def _sum(self, boxes: dict[int, bytes]) -> Generator[Phase, Replies, tuple[Words, frozenset[int]]]:
        """R2: forwards the encrypted shares; adds masked vectors to the sum as they arrive, without keeping them."""
        letters: dict[int, list[tuple[int, bytes]]] = {place: [] for place in boxes}
        for sender, sent in boxes.items():
            for at, receiver in enumerate(self._near(sender, self.records)):
                if receiver in letters:
                    letters[receiver].append((sender, sent[at * BOX_BYTES : (at + 1) * BOX_BYTES]))
        ready = {place: found for place, found in letters.items() if len(found) >= self.session.parameters.threshold}
        bodies = {place: frames.records(found) for place, found in ready.items()}
        encoding, bits = self.session.encoding, self.session.parameters.bits
        total, alive = np.zeros(encoding.words, lane(bits)), set()
        size = SIGNATURE_BYTES + encoding.bytes
        for place, body in (yield from self._ask(frames.DELIVER, bodies, frames.MASKED, lambda place: size)):
            words = self._checked_words(place, body)
            if words is not None:
                np.add(total, words, out=total)
                alive.add(place)
        self._give_up_if_blamed(alive)
        least = max(self.session.parameters.survivors, self.session.parameters.threshold)
        self._enough(dict.fromkeys(sorted(alive), b""), least, "sent a masked vector")
        self._require_openers(frozenset(alive), frozenset(alive))
        self.survivors = tuple(self._client(place) for place in sorted(alive))
        if reason := self.objection(self.survivors):
            raise AttemptError(reason, self.survivors)
        return total, frozenset(alive)

    def _checked_words(self, place: int, body: bytes) -> Words | None:
        """Unpacks a masked vector; None, with a note, if its signature is invalid or it is malformed."""
        signature, packed = body[:SIGNATURE_BYTES], memoryview(body)[SIGNATURE_BYTES:]
        text = masked_text(self.session.sid, self._client(place), packed)
        if not is_signed(self.session.key_of(place), signature, text):
            self.note(f"client '{self._client(place)}' is left out: it did not sign its masked vector")
            return None
        try:
            return unpack(packed, self.session.parameters.bits, self.session.encoding.words)
        except ValueError:
            self.note(f"client '{self._client(place)}' is left out: its masked vector is malformed")
            return None

    def _agree(self, alive: frozenset[int]) -> Exchange:
        """R3: collects the survivors' signatures of the list of survivors."""
        survivors = frames.bitmap(alive, self.session.count)
        body = dict.fromkeys(sorted(alive), survivors)
        text = agreed_text(self.session.sid, survivors)
        replies = yield from self._ask(frames.SURVIVORS, body, frames.AGREED, lambda place: SIGNATURE_BYTES)
        signed = {place: sig for place, sig in replies if is_signed(self.session.key_of(place), sig, text)}
        return self._enough(signed, self.session.parameters.threshold, "signed the list of survivors")

    def _open(self, alive: frozenset[int], signatures: dict[int, bytes]) -> Generator[Phase, Replies, Opened]:
        """R4: collects shares of b of survivors, and of s of clients that dropped out; never both of one client."""
        survivors = frames.bitmap(alive, self.session.count)
        asked, threshold = sorted(signatures) if self._active else sorted(alive), self.session.parameters.threshold
        near = {place: self._near(place, signatures) for place in asked} if self._active else {}
        bodies = {
            place: survivors + frames.records((peer, signatures[peer]) for peer in near.get(place, ()))
            for place in asked
            if not self._active or len(near[place]) >= threshold
        }
        self._require_openers(alive, frozenset(bodies))
        held = {place: self._near(place, self.shared) for place in bodies}
        opened = Opened(threshold)
        size = shamir.SHARE_BYTES
        for place, body in (yield from self._ask(frames.UNMASK, bodies, frames.OPENED, lambda p: len(held[p]) * size)):
            for at, owner in enumerate(held[place]):
                share = shamir.read_share(body[at * size : (at + 1) * size])
                if share is not None:
                    opened.add(owner, self.session.neighbours(owner).index(place) + 1, place, share)
        return opened

    def _require_openers(self, alive: frozenset[int], askable: frozenset[int]) -> None:
        """Raises AttemptError if a needed secret has fewer than t neighbours left to open it. No share is open yet, so
        another attempt is possible."""
        needed = alive | {gone for gone in self.shared - alive if self._near(gone, alive)}
        for owner in sorted(needed):
            found = len(self._near(owner, askable))
            if found < self.session.parameters.threshold:
                message = f"client '{self._client(owner)}' has {counted(found, 'remaining neighbour')}"
                left = [self._client(place) for place in sorted(askable)]
                raise AttemptError(f"{message}, {self.session.parameters.threshold} are needed", left)

    def _unmask(self, total: Words, alive: frozenset[int], opened: Opened) -> None:
        """Removes the survivors' own masks, and their pairwise masks with clients that dropped out after R1."""
        try:
            add_masks(total, list(self._masks(alive, opened)))
        except ProtocolError as error:
            raise AttemptError(error.message, opened=True) from error
        finally:
            if opened.liars:
                named = ", ".join(f"'{self._client(place)}'" for place in sorted(opened.liars))
                self.note(f"wrong shares arrived from {named}; other shares were used")
            for owner, senders in opened.doubts.items():
                named = ", ".join(f"'{self._client(place)}'" for place in senders)
                self.note(
                    f"shares of client '{self._client(owner)}' are inconsistent: it dealt wrong shares, or {named} "
                    "sent wrong shares"
                )

    def _masks(self, alive: frozenset[int], opened: Opened) -> Iterator[Stream]:
        for place in sorted(alive):
            yield (
                self_seed(self.session, recover(opened, place, self._client(place), partial(self._is_b, place))),
                False,
            )
        for gone in sorted(self.shared - alive):
            peers = self._near(gone, alive)
            if peers:
                private = loaded(recover(opened, gone, self._client(gone), partial(self._is_s, gone)))
                for peer in peers:
                    public = self.records[peer][KEY_BYTES : 2 * KEY_BYTES]
                    yield mask_seed(self.session, private, public, gone, peer), not peer < gone

    def _is_b(self, place: int, secret: bytes) -> bool:
        committed = self.records[place][2 * KEY_BYTES : 3 * KEY_BYTES]
        return commitment(secret, self.session.sid, self._client(place)) == committed

    def _is_s(self, place: int, secret: bytes) -> bool:
        return public_of(secret) == self.records[place][KEY_BYTES : 2 * KEY_BYTES]

    def _ask(
        self, kind: int, bodies: dict[int, bytes], answer: int, size: Callable[[int], int]
    ) -> Generator[Phase, Replies, Iterator[tuple[int, bytes]]]:
        """Runs one phase: sends a message to each client, and returns each one's first reply, if it is valid."""
        sid, cohort = self.session.sid, self.session.parameters.cohort
        messages = {cohort[place]: frames.frame(kind, sid, body) for place, body in bodies.items()}
        for client, message in messages.items() if self.recorder else ():
            self.recorder.sent(kind, client, message)  # type: ignore[union-attr]
        replies = yield Phase(messages, trains=kind == frames.DELIVER)
        return self._usable(replies, {cohort[place]: place for place in bodies}, kind, answer, size)

    def _usable(
        self, replies: Replies, places: dict[str, int], kind: int, answer: int, size: Callable[[int], int]
    ) -> Iterator[tuple[int, bytes]]:
        heard: set[int] = set()
        for client, message in replies:
            if self.recorder is not None:
                self.recorder.came(answer, client, message)
            place = places.get(client)
            if place is None or place in heard:
                continue
            heard.add(place)
            body = self._opened(place, message, kind, answer, size(place))
            if body is not None:
                yield place, body

    def _opened(self, place: int, message: bytes, kind: int, answer: int, size: int) -> bytes | None:
        """Returns a reply's body; None, with a note, if it is invalid or reports an unreadable share."""
        sid = self.session.sid
        try:
            if kind == frames.DELIVER and frames.phase_of(message) == frames.ABORT:
                accused = int.from_bytes(frames.opened(message, frames.ABORT, sid, 4, 4), "big")
                self._blame(place, accused)
                return None
            body = bytes(frames.opened(message, answer, sid, size, size))
        except ProtocolError as error:
            self.note(f"client '{self._client(place)}' is left out: {error.message}")
            return None
        return body if answer != frames.ADVERTISE or self._are_good_keys(place, body) else None

    def _are_good_keys(self, place: int, record: bytes) -> bool:
        """True if a client signed its keys, both are usable, and neither equals another key of the session."""
        client, keys = self._client(place), {record[:KEY_BYTES], record[KEY_BYTES : 2 * KEY_BYTES]}
        text = keys_text(self.session.sid, client, record)
        if not is_signed(self.session.key_of(place), record[3 * KEY_BYTES :], text):
            self.note(f"client '{client}' is left out: it did not sign its keys")
        elif len(keys) < 2 or keys & self._keys or not all(is_usable(key) for key in keys):
            self.note(f"client '{client}' is left out: its keys are of low order, or of another client")
        else:
            self._keys |= keys
            return True
        return False

    def _blame(self, accuser: int, accused: int) -> None:
        """Excludes accuser and accused from further attempts of the round: one of them lies, and which is unknown. An
        accuser of a client that is not its neighbour is excluded alone."""
        if accused in self.session.neighbours(accuser):
            self.note(f"client '{self._client(accuser)}' cannot read a share of client '{self._client(accused)}'")
            self._blamed |= {accuser, accused}
        else:
            self._blamed.add(accuser)

    def _give_up_if_blamed(self, alive: Iterable[int]) -> None:
        if self._blamed:
            left = [self._client(place) for place in sorted(set(alive) - self._blamed)]
            raise AttemptError("a client received an unreadable share", left)

    def _enough(self, found: dict[int, bytes], least: int, did: str) -> dict[int, bytes]:
        """Returns `found` if it has at least `least` entries. Raises AttemptError if it has fewer."""
        if len(found) < least:
            left = [self._client(place) for place in sorted(found)]
            message = f"{len(found)} of {counted(self.session.count, 'client')} {did}, {least} are needed"
            raise AttemptError(message, left)
        return found


def decoded_sum(session: Session, unmasked: Unmasked) -> Decoded:
    """Decodes the sum. Raises AttemptError if honest clients cannot reach it; shares are open by then."""
    try:
        return session.encoding.decode(unmasked.words, len(unmasked.survivors))
    except ProtocolError as error:
        raise AttemptError(error.message, opened=True) from error

"""Client side of protocol flctl-secagg/1: each message gets one reply; state is carried from phase to phase.

The engine carries a client's state outside of its process, so the state is sealed with a key of the client. A step is
claimed in the ledger after its message has been checked and before it has any effect. Old state therefore cannot be
replayed, and a message of another session, phase or length claims no step. A repeated message gets the same reply.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flctl import Arrays, ProtocolError
from flctl.errors import counted
from flctl_secagg.client.disclosure import require_hidden_in_a_sum, require_unclipped
from flctl_secagg.client.ledger import Ledger, Opening
from flctl_secagg.client.memory import Memory
from flctl_secagg.client.outbox import Outbox
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.session_keys import SessionKeys
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.masks import Stream, add_masks
from flctl_secagg.crypto.primitives import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    commitment,
    is_signed,
    loaded,
    new_key,
    private_of,
    public_of,
    sealed,
    sign,
    unsealed,
)
from flctl_secagg.encoding.packing import pack, reduce
from flctl_secagg.identity.keys import PrivateKeys
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.asked_work import AskedWork
from flctl_secagg.protocol.derived_keys import RECORD_BYTES, box_key, mask_seed, self_seed
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.parcels import DELIVERED_BYTES, Shares, is_dealt, key_tag, opened_shares, sealed_shares
from flctl_secagg.protocol.past import FIRST, LINK_BYTES, MOST_LINKS
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import (
    abort_text,
    agreed_text,
    keys_text,
    masked_text,
    opened_text,
    parcel_text,
    possession_text,
    server_text,
    shares_text,
)

__all__ = ["EXCHANGES", "Client"]

Sign = Callable[[bytes], bytes]
EXCHANGES = 5
"""Exchanges of a session, each of which may take as long as its deadline."""
_SKEW = 60.0
"""Seconds by which a clock may be set back during a session."""


@dataclass(frozen=True)
class Client:
    """A client with its identity key, its policy and its record of sessions.

    `step` raises ProtocolError for a message that it refuses. Nothing is sent then, and no new state is returned.
    """

    me: str
    keyring: PrivateKeys
    roster: Roster
    policy: Policy
    ledger: Ledger
    outbox: Outbox = field(default_factory=Outbox)
    clock: Callable[[], float] = time.time
    keys: SessionKeys | None = None
    """Keys that seal the state, one for each phase; None derives one from the identity key, as in a simulation."""
    history: Ledger | None = None
    """Record of the past that the client remembers of each run; None if it remembers none."""

    def step(self, memory: bytes, message: bytes, vector: Arrays | None, asked: AskedWork) -> tuple[bytes, bytes]:
        """Answers one message: returns the sealed state for the next phase, and the reply.

        `vector` is the client's contribution to the sum, in the phase that trains. `asked` describes the request that
        carried the message. Raises ProtocolError if the message is refused.
        """
        sid, now = frames.sid_of(message), self.clock()
        sent = self.outbox.again(self.me, sid, message, now - self.policy.session_seconds)
        if sent is None:
            sent = self._answer(memory, message, vector, asked)
            self.outbox.keep(self.me, sid, message, sent, now)
        return sent

    def _answer(self, memory: bytes, message: bytes, vector: Arrays | None, asked: AskedWork) -> tuple[bytes, bytes]:
        message, signature = frames.without_signature(message)
        kind = frames.phase_of(message)
        if kind == frames.HELLO:
            return self._advertise(message, signature, asked)
        steps = {
            frames.KEYS: self._share,
            frames.SURVIVORS: self._agree,
            frames.UNMASK: self._open,
        }
        if kind not in (*steps, frames.DELIVER):
            raise ProtocolError(f"a message of kind {kind} is not a server message")
        kept, session = self._recalled(memory, frames.sid_of(message))
        self._require_server(session.parameters, message, signature)
        _require_round(session.parameters, asked)
        if kind == frames.DELIVER:
            return self._mask(kept, session, message, vector, asked)
        return steps[kind](kept, session, message)

    def _recalled(self, memory: bytes, sid: bytes = b"") -> tuple[Memory, Session]:
        """Unseals the client's state of a session. Raises ProtocolError if it is missing, or the session is over."""
        key = self.keyring.memory_key(self.me) if self.keys is None else self.keys.current(self.me, sid)
        plain = unsealed(key, memory, self.me.encode()) if memory and key else None
        if plain is None:
            raise ProtocolError("this client has no such session")
        kept = Memory.read(plain)
        parameters = Parameters.read(kept.parameters)
        self._require_open(kept.started, parameters.deadline)
        return kept, Session(parameters, self.roster)

    def _require_open(self, started: float, deadline: float) -> None:
        """Raises ProtocolError if the session is over by this client's clock. Simulated clients run one after another,
        so the deadline of one exchange does not bound their session."""
        limit = self.policy.session_seconds
        if deadline and not self.policy.simulation:
            limit = min(limit, EXCHANGES * deadline)
        age = self.clock() - started
        if not -_SKEW <= age <= limit:
            raise ProtocolError(
                f"the session began {age:.0f} s ago and expires after {limit:g} s",
                hint="Start a new session; see engine.deadline, and session_seconds in the client's policy.",
            )

    def _remembered(self, memory: Memory, sid: bytes) -> bytes:
        key = self.keyring.memory_key(self.me) if self.keys is None else self.keys.renew(self.me, sid)
        return sealed(key, memory.written(), self.me.encode())

    def _forget(self, sid: bytes) -> bytes:
        """Ends a session: returns no state, and erases the key of the last one."""
        if self.keys is not None:
            self.keys.erase(self.me, sid)
        return b""

    def _place(self, session: Session) -> int:
        return session.parameters.cohort.index(self.me)

    def _require_server(self, parameters: Parameters, message: bytes, signature: bytes | None) -> None:
        """Raises ProtocolError unless the key that the session names signed the message, if it names one."""
        key = bytes.fromhex(parameters.server)
        if key and not is_signed(key, signature or b"", server_text(self.me, message)):
            raise ProtocolError("the message is not signed by the server of the session")

    def _advertise(self, message: bytes, signature: bytes | None, asked: AskedWork) -> tuple[bytes, bytes]:
        """R0: checks the parameters against the policy; sends two new public keys, and a commitment to a new b."""
        body = bytes(frames.opened(message, frames.HELLO, None, 2, frames.MOST_HELLO))
        parameters = Parameters.read(body)
        self._require_server(parameters, message, signature)
        _require_round(parameters, asked)
        if parameters.config != asked.config:
            raise ProtocolError(
                "the session is for another configuration than the one that this client was started with",
                hint="The server has to start all clients with one configuration.",
            )
        self.policy.check(parameters, self.me, self.roster)
        session = Session(parameters, self.roster)
        frames.opened(message, frames.HELLO, session.sid, 2, frames.MOST_HELLO)
        self.ledger.claim(self.me, session.sid, frames.HELLO)
        self.outbox.forget(self.clock() - self.policy.session_seconds)
        if self.keys is not None:
            self.keys.forget(self.clock() - self.policy.session_seconds)
        seeds = {name: new_key() for name in ("c", "s")}
        secrets = {name: private_of(seed) for name, seed in seeds.items()} | {"b": new_key()}
        record = public_of(secrets["c"]) + public_of(secrets["s"]) + commitment(secrets["b"], session.sid, self.me)
        head = FIRST if self.history is None else self.history.head(self.me, parameters.run)
        proofs = [sign(seed, possession_text(session.sid, self.me, record, head)) for seed in seeds.values()]
        record += self.keyring.signer(self.me)(keys_text(session.sid, self.me, record))
        memory = Memory(frames.ADVERTISE, body, self.clock(), secrets, {self._place(session): record})
        return self._remembered(memory, session.sid), frames.frame(frames.ADVERTISE, session.sid, record, head, *proofs)

    def _share(self, kept: Memory, session: Session, message: bytes) -> tuple[bytes, bytes]:
        """R1: checks the signatures of the neighbours' keys; sends each neighbour encrypted shares of b and s."""
        me, degree = self._place(session), session.parameters.neighbours
        _expect(kept, frames.ADVERTISE)
        size = (degree + 1) * (RECORD_BYTES + 4) + 4 + MOST_LINKS * LINK_BYTES
        body = frames.opened(message, frames.KEYS, session.sid, 4, size)
        links, rest = frames.read_links(body, LINK_BYTES, MOST_LINKS)
        records = frames.read_records(rest, RECORD_BYTES, degree + 1, session.count)
        neighbours = session.neighbours(me)
        self._check_records(kept, session, records, neighbours)
        if self.history is not None:
            head = bytes.fromhex(session.parameters.previous)
            self.history.follow(self.me, session.parameters.run, head, session.sid, links)
        self.ledger.claim(self.me, session.sid, frames.KEYS)
        shares = dict(zip(neighbours, self._split(kept, session, neighbours), strict=True))
        present = [peer for peer in neighbours if peer in records]
        private, sign_one = loaded(kept.secrets["c"]), self.keyring.signer(self.me)
        keys = {peer: box_key(session, private, records[peer][:KEY_BYTES], me, peer) for peer in present}
        parcels = b"".join(self._parcel(session, sign_one, keys[peer], peer, shares[peer]) for peer in present)
        memory = Memory(
            frames.SHARES,
            kept.parameters,
            kept.started,
            {name: kept.secrets[name] for name in ("s", "b")},  # c is not needed any more
            keys=keys,
            peers={peer: records[peer][KEY_BYTES : 2 * KEY_BYTES] for peer in present},
            shared=hashlib.sha256(parcels).digest(),
        )
        signature = sign_one(shares_text(session.sid, self.me, body, parcels))
        return self._remembered(memory, session.sid), frames.frame(frames.SHARES, session.sid, parcels, signature)

    def _parcel(self, session: Session, sign_one: Sign, key: bytes, peer: int, shares: Shares) -> bytes:
        """Returns the shares for a neighbour: sealed, committed to and signed; and a commitment to the pair's key."""
        me = self._place(session)
        goods = sealed_shares(session, key, me, peer, shares)
        text = parcel_text(session.sid, self.me, session.parameters.cohort[peer], goods)
        return goods + sign_one(text) + key_tag(session, key, me, peer)

    def _check_records(
        self, kept: Memory, session: Session, records: Mapping[int, bytes], neighbours: tuple[int, ...]
    ) -> None:
        me, cohort = self._place(session), session.parameters.cohort
        if records.get(me) != kept.records[me]:
            raise ProtocolError("this client's keys differ from the keys that it sent")
        if not records.keys() <= {me, *neighbours}:
            raise ProtocolError("there are keys of clients that are not neighbours")
        if len(records) - 1 < session.parameters.threshold:
            raise ProtocolError(f"found {counted(len(records) - 1, 'neighbour')}, fewer than the threshold")
        for position, record in records.items():
            if not is_signed(
                session.key_of(position), record[3 * KEY_BYTES :], keys_text(session.sid, cohort[position], record)
            ):
                raise ProtocolError(f"the keys of client '{cohort[position]}' are not signed by it")
        keys = [record[at : at + KEY_BYTES] for record in records.values() for at in (0, KEY_BYTES)]
        if len(set(keys)) != len(keys):
            raise ProtocolError("two keys of the session are equal")

    def _split(self, kept: Memory, session: Session, neighbours: tuple[int, ...]) -> list[Shares]:
        """Returns, for each neighbour, its shares of b and of s."""
        count, threshold = len(neighbours), session.parameters.threshold
        of_b, of_s = (shamir.split(kept.secrets[name], threshold, count) for name in ("b", "s"))
        return list(zip(of_b, of_s, strict=True))

    def _mask(
        self, kept: Memory, session: Session, message: bytes, vector: Arrays | None, asked: AskedWork
    ) -> tuple[bytes, bytes]:
        """R2: sends the masked vector. All parcels are opened first; one with invalid shares aborts the attempt."""
        me, degree = self._place(session), session.parameters.neighbours
        _expect(kept, frames.SHARES)
        if vector is None:
            raise ProtocolError("a masked vector was requested without training")
        if asked.digest != session.parameters.work:
            raise ProtocolError("the work differs from the work of the session")
        self.policy.check_work(asked)
        require_hidden_in_a_sum(
            vector, session.parameters.max_weight, asked, accept_zeros=asked.rests or self.policy.accept_zeros
        )
        body = frames.opened(message, frames.DELIVER, session.sid, 0, degree * (DELIVERED_BYTES + 4))
        parcels = frames.read_records(body, DELIVERED_BYTES, degree, session.count)
        if not parcels.keys() <= kept.keys.keys() or len(parcels) < session.parameters.threshold:
            raise ProtocolError(
                f"found {counted(len(parcels), 'neighbour')} with shares, fewer than the threshold, or unknown clients"
            )
        self.ledger.claim(self.me, session.sid, frames.DELIVER)
        shares: dict[int, bytes] = {}
        for peer, parcel in parcels.items():
            pair = opened_shares(session, kept.keys[peer], peer, me, parcel)
            if pair is None:
                return self._forget(session.sid), self._complaint(kept, session, peer, parcel, body)
            shares[peer] = pair
        packed = self._masked(kept, session, vector, sorted(parcels))
        signature = self.keyring.signer(self.me)(masked_text(session.sid, self.me, kept.shared, body, packed))
        # Own keys and b are not needed any more: only the neighbours' shares are kept.
        memory = Memory(frames.MASKED, kept.parameters, kept.started, shares=shares)
        return self._remembered(memory, session.sid), frames.frame(frames.MASKED, session.sid, signature, packed)

    def _complaint(self, kept: Memory, session: Session, peer: int, parcel: bytes, body: memoryview) -> bytes:
        """Returns the message that accuses a dealer of invalid shares. It names the pair's key, which proves them
        invalid, only if the dealer signed them: else a server that damages parcels would collect shares by the keys."""
        dealt = is_dealt(session, parcel, peer, self._place(session))
        key = kept.keys[peer] if dealt else bytes(KEY_BYTES)
        complaint = peer.to_bytes(4, "big") + hashlib.sha256(body).digest() + key
        signature = self.keyring.signer(self.me)(abort_text(session.sid, self.me, complaint))
        return frames.frame(frames.ABORT, session.sid, complaint, signature)

    def _masked(self, kept: Memory, session: Session, vector: Arrays, peers: list[int]) -> bytes | bytearray:
        """Returns y_u = x_u + PRG(b_u) + sum over peers of +-PRG(s_uv), modulo 2^w, packed."""
        me, bits = self._place(session), session.parameters.bits
        words, clipped = session.encoding.encode_counted(vector)
        if self.policy.bounded:  # a count of clipping clients depends on data, and no noise hides it
            words[-2] = 0
        if not (self.policy.bounded and session.parameters.max_weight <= 1):
            require_unclipped(clipped, session.parameters.layout, self.policy.clipped)
        streams: list[Stream] = [(self_seed(session, kept.secrets["b"]), True)]
        private = loaded(kept.secrets["s"])
        for peer in peers:
            streams.append((mask_seed(session, private, kept.peers[peer], me, peer), me < peer))
        add_masks(words, streams)
        return pack(reduce(words, bits), bits)

    def _agree(self, kept: Memory, session: Session, message: bytes) -> tuple[bytes, bytes]:
        """R3, active mode: signs one list of survivors, the only one for which this client will open shares."""
        _expect(kept, frames.MASKED)
        if session.parameters.mode != "active":
            raise ProtocolError("a list of survivors to sign arrived in a mode without signatures")
        size = (session.count + 7) // 8
        survivors = bytes(frames.opened(message, frames.SURVIVORS, session.sid, size, size))
        self._check_survivors(kept, session, survivors)
        self.ledger.check(self.me, self._opening(session, survivors), apart=self._apart)  # now, to allow a retry
        self.ledger.claim(self.me, session.sid, frames.SURVIVORS)
        signature = self.keyring.signer(self.me)(agreed_text(session.sid, survivors))
        memory = dataclasses.replace(kept, phase=frames.AGREED, survivors=survivors)
        return self._remembered(memory, session.sid), frames.frame(frames.AGREED, session.sid, signature)

    def _check_survivors(self, kept: Memory, session: Session, survivors: bytes) -> None:
        me, parameters = self._place(session), session.parameters
        alive = frames.members(survivors, session.count)
        if me not in alive:
            raise ProtocolError("this client sent its vector and is not on the list of survivors")
        if len(alive) < max(parameters.threshold, parameters.survivors):
            raise ProtocolError(f"found {counted(len(alive), 'survivor')}, fewer than the session needs")
        strangers = [peer for peer in session.neighbours(me) if peer in alive and peer not in kept.shares]
        if strangers:
            raise ProtocolError(f"{counted(len(strangers), 'survivor')} did not share secrets with this client")

    def _open(self, kept: Memory, session: Session, message: bytes) -> tuple[bytes, bytes]:
        """R4: opens one share of each neighbour: of b if the neighbour survived, of s if it dropped out."""
        active = session.parameters.mode == "active"
        _expect(kept, frames.AGREED if active else frames.MASKED)
        size = (session.count + 7) // 8
        most = size + session.parameters.neighbours * (SIGNATURE_BYTES + 4) if active else size
        body = frames.opened(message, frames.UNMASK, session.sid, size, most)
        survivors = bytes(body[:size])
        if active and survivors != kept.survivors:
            raise ProtocolError("the survivors differ from the list that this client signed")
        self._check_survivors(kept, session, survivors)
        if active:
            self._check_agreement(session, survivors, body[size:])
        self.ledger.claim(self.me, session.sid, frames.UNMASK)
        self.ledger.answer(self.me, self._opening(session, survivors), apart=self._apart)
        alive = frames.members(survivors, session.count)
        half = shamir.SHARE_BYTES
        answer = b"".join(pair[:half] if peer in alive else pair[half:] for peer, pair in sorted(kept.shares.items()))
        signature = self.keyring.signer(self.me)(opened_text(session.sid, self.me, body, answer))
        return self._forget(session.sid), frames.frame(frames.OPENED, session.sid, answer, signature)

    def _check_agreement(self, session: Session, survivors: bytes, body: memoryview) -> None:
        """Raises ProtocolError unless t or more neighbours signed this list. No second list has t signers: an honest
        client signs once, and 2 t - k exceeds the number of corrupt clients."""
        me, needed = self._place(session), session.parameters.threshold
        signatures = frames.read_records(body, SIGNATURE_BYTES, session.parameters.neighbours, session.count)
        text, mine = agreed_text(session.sid, survivors), set(session.neighbours(me))
        alive = frames.members(survivors, session.count)
        if not signatures.keys() <= mine & alive or len(signatures) < needed:
            raise ProtocolError(
                f"found {counted(len(signatures), 'signature')} of neighbours, expected at least {needed}, and none "
                "of other clients"
            )
        for position, signature in signatures.items():
            if not is_signed(session.key_of(position), signature, text):
                raise ProtocolError(
                    f"client '{session.parameters.cohort[position]}' did not sign the list of survivors"
                )

    def _opening(self, session: Session, survivors: bytes) -> Opening:
        parameters = session.parameters
        alive = sorted(frames.members(survivors, session.count))
        listed = tuple(parameters.cohort[position] for position in alive)
        return Opening.of(session, listed)

    @property
    def _apart(self) -> bool:
        return self.policy.differing == "refuse"


def _require_round(parameters: Parameters, asked: AskedWork) -> None:
    if parameters.round != asked.round:
        raise ProtocolError(f"a session of round {parameters.round} arrived with a request of round {asked.round}")


def _expect(kept: Memory, phase: int) -> None:
    if kept.phase != phase:
        raise ProtocolError("a message arrived out of order")

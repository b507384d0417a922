"""Cohorts of real clients and a real server that speak through bytes, with whatever goes wrong in between."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flctl_secagg.client.client import Client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto.primitives import SIGNATURE_BYTES, new_key, sign
from flctl_secagg.encoding.vectors import Encoding
from flctl_secagg.identity.keys import Keyring, identity_public
from flctl_secagg.identity.roster import Roster, make_roster
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.asked_work import AskedWork, work_digest
from flctl_secagg.protocol.degrees import complete
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.session import Session
from flctl_secagg.protocol.signed_texts import masked_text
from flctl_secagg.server.attempt import Attempt, AttemptError, Unmasked

DIGEST = work_digest(None)
ASKED = AskedWork(1, DIGEST)
LENGTHS = (("delta", 40), ("buffers", 6))


def identities(count: int, run: str | None = None) -> tuple[Roster, Keyring, tuple[str, ...]]:
    """A roster of `count` clients that an operator signed."""
    names = tuple(f"c{place:02d}" for place in range(count))
    keyring = Keyring.derived(new_key())
    run = run or f"run {new_key().hex()[:16]}"  # in one process, ledgers without a file are one
    roster = make_roster(run, {name: identity_public(keyring.secret_of(name)) for name in names}, new_key())
    return roster, keyring, names


def parameters(names, *, mode="hbc", bits=32, neighbours=None, threshold=None, **changes) -> Parameters:
    """Parameters that every policy of these tests takes."""
    degree = len(names) - 1 if neighbours is None else neighbours
    least = complete(degree + 1, mode)
    layout = changes.pop("layout", LENGTHS)
    clip, max_weight = changes.pop("clip", 4.0), changes.pop("max_weight", 8.0)
    encoding = Encoding(layout, bits, len(names), clip, max_weight)
    values = {
        "run": "run",
        "round": 1,
        "attempt": 1,
        "work": DIGEST,
        "layout": layout,
        "bits": bits,
        "clip": clip,
        "max_weight": max_weight,
        "minimum": 3,
        "survivors": 3,
        "neighbours": degree,
        "threshold": least.threshold if threshold is None else threshold,
        "mode": mode,
        "cipher": "aes-128-ctr",
        "cohort": tuple(names),
        "deadline": 0.0,
        "nonce": new_key().hex(),
        "words": encoding.words,
        "levels": encoding.levels,
    }
    return Parameters(**{**values, **changes})


def vectors(names, seed=0, layout=LENGTHS):
    """A premultiplied vector for each client."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in names:
        weight = float(rng.uniform(1, 8))
        parts = {key: (weight * rng.uniform(-1, 1, size)).astype(np.float32) for key, size in layout}
        made[name] = {**parts, "weight": np.array([weight])}
    return made


@dataclass
class Cohort:
    """Clients in one process, each with its own memory. `lost(kind, client)` says whose reply never comes, `tamper`
    what comes in its place, `meddle` what a client hears in place of the server's message."""

    roster: Roster
    keyring: Keyring
    names: tuple[str, ...]
    vectors: dict = field(default_factory=dict)
    policy: Policy = field(default_factory=lambda: Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0))
    lost: Callable = lambda kind, client: False
    tamper: Callable = lambda kind, client, reply: reply
    meddle: Callable = lambda kind, client, message: message
    asked: Callable = lambda client: ASKED
    round: int = 1
    work: str | None = None
    ledger: Ledger | None = None
    memories: dict = field(default_factory=dict)
    refusals: dict = field(default_factory=dict)
    heard: list = field(default_factory=list)
    said: list = field(default_factory=list)

    def __post_init__(self):
        self.vectors = self.vectors or vectors(self.names)
        self.ledger = self.ledger or Ledger()

    def client(self, name) -> Client:
        return Client(name, self.keyring, self.roster, self.policy, self.ledger)

    def request(self, name) -> AskedWork:
        """The request that carries a message of the session that is played."""
        asked = dataclasses.replace(self.asked(name), round=self.round)
        return asked if self.work is None else dataclasses.replace(asked, digest=self.work)

    def answer(self, name, message, trains):
        """One client's reply, or None where it refuses."""
        from flctl import FlctlError

        vector = self.vectors[name] if trains else None
        try:
            memory, reply = self.client(name).step(self.memories.pop(name, b""), message, vector, self.request(name))
        except FlctlError as error:
            self.refusals[name] = error
            return None
        self.memories[name] = memory
        return reply

    def replies(self, phase):
        for name, message in phase.messages.items():
            kind = message[5]
            message = self.meddle(kind, name, message)
            self.heard.append((kind, name, message))
            reply = self.answer(name, message, phase.trains)
            if reply is None or self.lost(kind, name):
                continue
            reply = self.tamper(kind, name, reply)
            self.said.append((kind, name, reply))
            yield name, reply

    def play(self, attempt) -> Unmasked:
        self.round = attempt.session.parameters.round
        protocol = attempt.run()
        replies = None
        while True:
            try:
                phase = protocol.send(replies)
            except StopIteration as finished:
                return finished.value
            replies = self.replies(phase)


def cohort_of(count, **changes) -> Cohort:
    roster, keyring, names = identities(count)
    return Cohort(roster, keyring, names, **changes)


def signed_vector(cohort: Cohort, name: str, packed: bytes) -> bytes:
    """A client's own signature under words of its making, in the session that the cohort plays."""
    (said,) = [reply for kind, who, reply in cohort.said if (kind, who) == (frames.KEYS, name)][-1:]
    (heard,) = [message for kind, who, message in cohort.heard if (kind, who) == (frames.DELIVER, name)][-1:]
    shared = hashlib.sha256(said[frames.HEAD : -SIGNATURE_BYTES]).digest()
    text = masked_text(said[6 : frames.HEAD], name, shared, heard[frames.HEAD :], packed)
    return sign(cohort.keyring.secret_of(name), text)


def attempt_of(cohort: Cohort, notes=None, **changes) -> Attempt:
    found = [] if notes is None else notes
    return Attempt(
        Session(parameters(cohort.names, **{"run": cohort.roster.run, **changes}), cohort.roster), found.append
    )


__all__ = [
    "ASKED",
    "AttemptError",
    "Cohort",
    "attempt_of",
    "cohort_of",
    "identities",
    "parameters",
    "signed_vector",
    "vectors",
]

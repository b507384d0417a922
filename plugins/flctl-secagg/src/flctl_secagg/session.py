"""A session: the parameters that all agree on, the id that binds them, and a client's own policy for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from flctl import Arrays, FlctlError, ProtocolError, Work
from flctl_secagg.degrees import Mode, choose, least_threshold
from flctl_secagg.encoding import Encoding
from flctl_secagg.frames import MOST_HELLO
from flctl_secagg.graph import neighbours_of
from flctl_secagg.masks import Ciphers
from flctl_secagg.packing import WIDTHS
from flctl_secagg.primitives import PROTOCOL
from flctl_secagg.roster import Roster

__all__ = ["COMPLETE_UP_TO", "FLOOR", "Parameters", "Policy", "Session", "model_digest"]

FLOOR = 3
"""No policy takes a smaller cohort: of two clients, each knows the other's update from the sum."""
_MOST_COUNT = 1 << 63
COMPLETE_UP_TO = 256
"""In active mode, cohorts up to here use the complete graph."""


def model_digest(work: Work | None) -> str:
    """SHA-256 of all vectors that a client is sent: the model, and what strategy and transforms broadcast."""
    digest = hashlib.sha256(b"flctl-secagg work")
    if work is not None:
        _absorb(digest, "params", work.params)
        _absorb(digest, "extra", work.extra)
        for name in sorted(work.transforms):
            _absorb(digest, f"transform {name}", work.transforms[name])
    return digest.hexdigest()


def _absorb(digest: Any, group: str, vectors: Arrays) -> None:
    for name in sorted(vectors):
        vector = vectors[name]
        digest.update(json.dumps([group, name, vector.dtype.newbyteorder("<").str, int(vector.size)]).encode())
        digest.update(vector.astype(vector.dtype.newbyteorder("<"), copy=False).data)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the server proposes and every client checks. `model` is `model_digest`; `minimum` and `survivors` are the
    fewest clients that may begin and end; `cohort` is sorted; `deadline` is in seconds, 0 for none; `nonce` is hex."""

    run: str
    round: int
    attempt: int
    model: str
    layout: tuple[tuple[str, int], ...]
    bits: int
    clip: float
    max_weight: float
    minimum: int
    survivors: int
    neighbours: int
    threshold: int
    mode: Mode
    cipher: Ciphers
    cohort: tuple[str, ...]
    deadline: float
    nonce: str
    words: int
    levels: int
    version: str = PROTOCOL.decode()

    def canonical(self) -> bytes:
        """The one way to write them: JSON with sorted keys and no spaces."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def read(cls, raw: bytes) -> Parameters:
        """The parameters in canonical bytes. Raises ProtocolError for anything else."""
        if len(raw) > MOST_HELLO:
            raise ProtocolError(f"parameters of {len(raw)} bytes; at most {MOST_HELLO} are read")
        try:
            values = json.loads(raw)
            values["layout"] = tuple((name, length) for name, length in values["layout"])
            values["cohort"] = tuple(values["cohort"])
            found = cls(**values)
            found.check_types()
            same = found.canonical() == raw
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ProtocolError("parameters of a session are not well-formed") from error
        if not same:
            raise ProtocolError("parameters of a session are not in their canonical form")
        return found

    def check_types(self) -> None:
        """Raises TypeError or ValueError for a value of another type, or out of any use."""
        texts = (self.run, self.model, self.mode, self.cipher, self.nonce, self.version, *self.cohort)
        numbers: tuple[int, ...] = (self.round, self.attempt, self.bits, self.minimum, self.survivors, self.neighbours)
        numbers += (self.threshold, self.words, self.levels, *(length for _, length in self.layout))
        if any(type(text) is not str for text in (*texts, *(name for name, _ in self.layout))):
            raise TypeError("a text is none")
        if any(type(number) is not int or not 0 <= number < _MOST_COUNT for number in numbers):
            raise TypeError("a count is none")
        if any(type(number) is not float or number < 0 for number in (self.clip, self.max_weight, self.deadline)):
            raise TypeError("a number is none")
        if len(bytes.fromhex(self.nonce)) != 32 or len(self.nonce) != 64 or len(dict(self.layout)) != len(self.layout):
            raise ValueError("the nonce or the layout is no such thing")

    def sid(self, roster: Roster) -> bytes:
        """SHA-256 over the protocol's name, these parameters and the roster."""
        return hashlib.sha256(PROTOCOL + self.canonical() + roster.digest).digest()


@dataclass(frozen=True, slots=True)
class Policy:
    """What a client insists on, whatever the server proposes. `corrupt` and `dropped` are the shares of clients that
    may collude with the server, and vanish; `largest` the most words that it makes room for."""

    mode: Mode = "hbc"
    minimum: int = 5
    least_threshold: int = 2
    max_weight: float = 1024.0
    corrupt: float = 0.1
    dropped: float = 0.1
    run: str | None = None
    largest: int = 1 << 31

    def check(self, found: Parameters, me: str, roster: Roster) -> None:
        """Raises ProtocolError for parameters outside of this policy, or that contradict each other."""
        self._check_cohort(found, me, roster)
        self._check_secrecy(found)
        self._check_numbers(found)

    def _check_cohort(self, found: Parameters, me: str, roster: Roster) -> None:
        cohort, least = found.cohort, max(self.minimum, FLOOR)
        _demand(found.version == PROTOCOL.decode(), f"the protocol is {found.version!r:.40}")
        _demand(found.run == self.run or self.run is None, "the session belongs to another run")
        _demand(list(cohort) == sorted(set(cohort)), "the cohort names a client twice, or is not sorted")
        _demand(me in cohort, "this client is not in the cohort")
        strangers = [client for client in cohort if client not in roster.keys]
        _demand(not strangers, f"{len(strangers)} clients of the cohort are not on the roster")
        _demand(len(cohort) >= least, f"the cohort has {len(cohort)} clients, the policy asks for {least}")
        _demand(found.minimum >= least, f"the session would begin with {found.minimum}, the policy asks for {least}")
        _demand(
            least <= found.survivors <= len(cohort),
            f"the session would end with {found.survivors}, not {least} or more",
        )

    def _check_secrecy(self, found: Parameters) -> None:
        count, degree, threshold = len(found.cohort), found.neighbours, found.threshold
        _demand(found.mode in ("hbc", "active"), "the mode is unknown")
        _demand(self.mode == "hbc" or found.mode == "active", "the policy asks for active mode")
        try:
            least = choose(count, found.mode, self.corrupt, self.dropped)
        except FlctlError as error:
            raise ProtocolError(f"policy: {error.message}") from error
        complete = degree == count - 1
        _demand(
            complete or (least.neighbours <= degree < count and degree % 2 == 0), f"{degree} neighbours are too few"
        )
        _demand(complete or found.mode == "hbc" or count > COMPLETE_UP_TO, "active mode asks for the complete graph")
        safe = least_threshold(count, degree, found.mode, self.corrupt)
        lowest = max(safe, self.least_threshold)
        _demand(lowest <= threshold <= degree, f"a threshold of {threshold} is outside of {lowest} to {degree}")

    def _check_numbers(self, found: Parameters) -> None:
        _demand(found.bits in WIDTHS, f"words of {found.bits} bits are unknown")
        _demand(found.cipher in ("aes-128-ctr", "aes-256-ctr"), "the cipher is unknown")
        _demand(0 < found.max_weight <= self.max_weight, f"weights up to {found.max_weight:g} are too large")
        unit = found.clip * found.max_weight
        _demand(0 < unit < inf and found.levels / unit < inf, "the clip is no bound")
        room = 1 << (found.bits - 1)
        _demand(found.levels > 0 and found.levels * len(found.cohort) < room, "the sum of the clients may overflow")
        _demand(found.words <= self.largest, f"{found.words} words are more than the policy makes room for")
        try:
            encoding = Session.encoding_of(found)
        except FlctlError as error:
            raise ProtocolError(f"policy: {error.message}") from error
        _demand(
            (encoding.words, encoding.levels) == (found.words, found.levels), "the parameters contradict each other"
        )


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProtocolError(f"policy: {otherwise}", hint="This client takes no part; see aggregator.* in the config.")


@dataclass(frozen=True)
class Session:
    """Parameters with all that follows from them."""

    parameters: Parameters
    roster: Roster

    @staticmethod
    def encoding_of(found: Parameters) -> Encoding:
        """How vectors become words."""
        return Encoding(found.layout, found.bits, len(found.cohort), found.clip, found.max_weight)

    @cached_property
    def sid(self) -> bytes:
        """The session's id."""
        return self.parameters.sid(self.roster)

    @cached_property
    def encoding(self) -> Encoding:
        """How vectors become words."""
        return self.encoding_of(self.parameters)

    @property
    def count(self) -> int:
        """The cohort's size."""
        return len(self.parameters.cohort)

    @cached_property
    def graph_seed(self) -> bytes:
        """Of the session; in active mode of the roster, which is older than the cohort, so that the server cannot
        try nonces until a client's neighbours are its own."""
        if self.parameters.mode == "active":
            return hashlib.sha256(self.roster.graph_seed + self.parameters.round.to_bytes(8, "big")).digest()
        return self.sid

    def neighbours(self, place: int) -> tuple[int, ...]:
        """Who masks with the client at `place`, ascending."""
        if place not in self._near:
            degree = self.parameters.neighbours
            self._near[place] = neighbours_of(place, self.count, degree, self.graph_seed)
        return self._near[place]

    @cached_property
    def _near(self) -> dict[int, tuple[int, ...]]:
        return {}

    def key_of(self, place: int) -> bytes:
        """The identity key of the client at `place`."""
        return self.roster.keys[self.parameters.cohort[place]]

"""Policy of a client: limits on the sessions that it joins, whatever a server proposes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeVar

from flctl import FlctlError, ProtocolError
from flctl.errors import counted
from flctl_secagg.client.local_bounds import LocalBounds
from flctl_secagg.crypto.masks import Ciphers
from flctl_secagg.encoding.packing import WIDTHS
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol.asked_work import AskedWork
from flctl_secagg.protocol.degrees import COMPLETE_UP_TO, Mode, choose, least_threshold
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.session import Session

__all__ = ["DIFFERING", "FLOOR", "Differing", "Policy"]

FLOOR = 3
"""Smallest cohort under any policy: of two clients, each can subtract its own update from the sum."""
Differing = Literal["allow", "warn", "refuse"]
DIFFERING: tuple[Differing, ...] = ("allow", "warn", "refuse")
"""Values from the laxest to the strictest."""
Value = TypeVar("Value")
_CIPHERS: tuple[Ciphers, ...] = ("aes-128-ctr", "aes-256-ctr")


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits that a client enforces, whatever the server proposes.

    - `mode`: `active` refuses sessions in `hbc` mode.
    - `minimum`, `threshold`: the fewest clients of a sum, and the fewest shares that open a secret.
    - `corrupt`, `dropped`: fractions of clients that may collude with the server, and vanish.
    - `clip_floor`, `clip`: the least and the largest bound of a coordinate. A tiny bound leaves only signs and the
      weight in a client's words, which can be solved for in a sum of few clients.
    - `clipped`: the largest fraction of a client's coordinates that may reach the bound.
    - `bits`, `ciphers`: accepted widths of words, and ciphers of masks.
    - `max_weight`, `rounds`, `largest`: the largest weight, round number, and count of words.
    - `differing`: `refuse` opens no shares for survivors whose sum, combined with earlier sums, gives the update of one
      client or a combination of two.
    - `session_seconds`: the longest duration of a session, in seconds.
    - `run`: the name of the only accepted run; None accepts any.
    - `server`: the public key, in hex digits, that has to sign the server's messages; empty accepts any, and none.
    - `local`: bounds on local training.
    - `accept_zeros`: sends updates of zero. Under differential privacy, a client whose training diverges sends zeros;
      a refusal would reveal which client that was.
    - `bounded`: a transform bounds each client's update, as under differential privacy: a client neither refuses
      because of clipped values (if weights are equal) nor counts them.
    - `simulation`: accepts simulated devices, some of which make fewer steps than others.
    """

    mode: Mode = "hbc"
    minimum: int = 5
    threshold: int = 2
    corrupt: float = 0.1
    dropped: float = 0.1
    clip_floor: float = 1e-3
    clip: float = 1e3
    clipped: float = 0.05
    bits: tuple[int, ...] = WIDTHS
    ciphers: tuple[Ciphers, ...] = _CIPHERS
    max_weight: float = 1024.0
    rounds: int = 1_000_000
    largest: int = 1 << 31
    differing: Differing = "warn"
    session_seconds: float = 86_400.0
    run: str | None = None
    server: str = ""
    local: LocalBounds = field(default_factory=LocalBounds)
    simulation: bool = False
    accept_zeros: bool = False
    bounded: bool = False

    @classmethod
    def laxest(cls, run: str | None) -> Policy:
        """Returns the least strict policy: it refuses only what every policy refuses."""
        return cls(
            minimum=FLOOR, corrupt=0.0, dropped=0.0, clip_floor=0.0, clip=inf, max_weight=inf, rounds=1 << 63, run=run
        )

    def check(self, found: Parameters, me: str, roster: Roster) -> None:
        """Raises ProtocolError if parameters are outside of this policy, or contradict each other."""
        self._check_cohort(found, me, roster)
        self._check_secrecy(found)
        self._check_numbers(found)
        self._check_encoding(found)

    def check_work(self, asked: AskedWork) -> None:
        """Raises ProtocolError if this policy does not allow the local training."""
        _demand(self.simulation or not asked.limited, "the work allows some clients fewer steps than others")
        if asked.local is not None:
            self.local.check(asked.local, asked.class_ratio)

    def objections(self, run: Policy) -> list[str]:
        """Lists the options of a run, given as a policy, under which this policy refuses every session."""
        least, most = ("minimum", "corrupt", "dropped", "clip_floor"), ("clip", "max_weight", "rounds")
        found = [f"mode is {run.mode}, expected {self.mode}"] if (self.mode, run.mode) == ("active", "hbc") else []
        found += [
            f"{name.removesuffix('_floor')} is {getattr(run, name):g}, expected at least {getattr(self, name):g}"
            for name in least
            if getattr(run, name) < getattr(self, name)
        ]
        found += [
            f"{name} is {getattr(run, name):g}, expected at most {getattr(self, name):g}"
            for name in most
            if getattr(run, name) > getattr(self, name)
        ]
        if not _common(self.bits, run.bits):
            found.append(f"bits is {_listed(run.bits)}, expected {_listed(self.bits)}")
        if not _common(self.ciphers, run.ciphers):
            found.append(f"cipher is {_listed(run.ciphers)}, expected {_listed(self.ciphers)}")
        return found + self.local.objections(run.local)

    def tightened(self, other: Policy) -> Policy:
        """Returns the policy that accepts exactly what both accept."""
        values = {name: max(getattr(self, name), getattr(other, name)) for name in _HIGHER_IS_STRICTER}
        values |= {name: min(getattr(self, name), getattr(other, name)) for name in _LOWER_IS_STRICTER}
        values |= {name: _common(getattr(self, name), getattr(other, name)) for name in ("bits", "ciphers")}
        return dataclasses.replace(
            self,
            **values,
            mode=max(self.mode, other.mode, key=("hbc", "active").index),
            differing=max(self.differing, other.differing, key=DIFFERING.index),
            run=self.run or other.run,
            server=self.server or other.server,
            local=self.local.tightened(other.local),
            simulation=self.simulation and other.simulation,
            accept_zeros=self.accept_zeros and other.accept_zeros,
            bounded=self.bounded or other.bounded,
        )

    def _check_cohort(self, found: Parameters, me: str, roster: Roster) -> None:
        cohort, least = found.cohort, max(self.minimum, FLOOR)
        _demand(found.run == self.run or self.run is None, "the session belongs to another run")
        _demand(self.server in ("", found.server), "the session is not signed by the server that is pinned")
        _demand(found.round <= self.rounds, f"round {found.round} is above {self.rounds}, the last one")
        _demand(list(cohort) == sorted(set(cohort)), "the cohort names a client twice, or is not sorted")
        _demand(me in cohort, "this client is not in the cohort")
        strangers = [client for client in cohort if client not in roster.keys]
        _demand(not strangers, f"{counted(len(strangers), 'client')} of the cohort not on the roster")
        _demand(len(cohort) >= least, f"the cohort has {counted(len(cohort), 'client')}, the policy needs {least}")
        _demand(found.minimum >= least, f"the session would begin with {found.minimum}, the policy needs {least}")
        _demand(
            least <= found.survivors <= len(cohort),
            f"the session would end with {found.survivors}, not {least} or more",
        )

    def _check_secrecy(self, found: Parameters) -> None:
        count, degree, threshold = len(found.cohort), found.neighbours, found.threshold
        _demand(found.mode in ("hbc", "active"), "the mode is unknown")
        _demand(self.mode == "hbc" or found.mode == "active", "the policy needs active mode")
        try:
            least = choose(count, found.mode, self.corrupt, self.dropped)
        except FlctlError as error:
            raise ProtocolError(f"policy: {error.message}") from error
        complete = degree == count - 1
        _demand(
            complete or (least.neighbours <= degree < count and degree % 2 == 0),
            f"{counted(degree, 'neighbour')}, which is too few",
        )
        _demand(complete or found.mode == "hbc" or count > COMPLETE_UP_TO, "active mode needs the complete graph")
        safe = least_threshold(count, degree, found.mode, self.corrupt)
        lowest = max(safe, self.threshold)
        _demand(lowest <= threshold <= degree, f"the threshold is {threshold}, expected {lowest} to {degree}")

    def _check_numbers(self, found: Parameters) -> None:
        _demand(found.bits in WIDTHS, f"words of {found.bits} bits are unknown")
        _demand(found.bits in self.bits, f"words have {found.bits} bits, expected {_listed(self.bits)}")
        _demand(found.cipher in _CIPHERS, "the cipher is unknown")
        _demand(found.cipher in self.ciphers, f"the cipher is {found.cipher}, expected {_listed(self.ciphers)}")
        _demand(0 < found.max_weight <= self.max_weight, f"weights up to {found.max_weight:g} are too large")
        unit = found.clip * found.max_weight
        _demand(0 < unit < inf and found.levels / unit < inf, "the clip is not a valid bound")
        _demand(
            self.clip_floor <= found.clip <= self.clip,
            f"the clip is {found.clip:g}, expected {self.clip_floor:g} to {self.clip:g}",
        )

    def _check_encoding(self, found: Parameters) -> None:
        room = 1 << (found.bits - 1)
        _demand(found.levels > 0 and found.levels * len(found.cohort) < room, "the sum of the clients may overflow")
        _demand(
            found.words <= self.largest, f"the vectors have {counted(found.words, 'word')}, more than the policy allows"
        )
        try:
            encoding = Session.encoding_of(found)
        except FlctlError as error:
            raise ProtocolError(f"policy: {error.message}") from error
        _demand(
            (encoding.words, encoding.levels) == (found.words, found.levels), "the parameters contradict each other"
        )


_HIGHER_IS_STRICTER = ("minimum", "threshold", "corrupt", "dropped", "clip_floor")
_LOWER_IS_STRICTER = ("clip", "clipped", "max_weight", "rounds", "largest", "session_seconds")


def _common(mine: tuple[Value, ...], others: tuple[Value, ...]) -> tuple[Value, ...]:
    return tuple(one for one in mine if one in others)


def _listed(values: tuple[object, ...]) -> str:
    return " or ".join(map(str, values)) or "none: no value is allowed by both this policy and the run's options"


def _demand(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise ProtocolError(
            f"policy: {otherwise}",
            hint="The client refuses to take part; see its policy, and aggregator.* in the config.",
        )

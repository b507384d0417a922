"""The policy of a client: bounds of what it takes part in, whatever a server proposes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from flctl import FlctlError, ProtocolError
from flctl_secagg.crypto.primitives import PROTOCOL
from flctl_secagg.encoding.packing import WIDTHS
from flctl_secagg.identity.roster import Roster
from flctl_secagg.protocol.degrees import COMPLETE_UP_TO, Mode, choose, least_threshold
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.session import Session

__all__ = ["FLOOR", "Policy"]

FLOOR = 3
"""No policy takes a smaller cohort: of two clients, each knows the other's update from the sum."""


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

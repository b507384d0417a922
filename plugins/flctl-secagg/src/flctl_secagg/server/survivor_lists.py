"""Server's record of survivor lists: lists that clients would refuse, and notes of clients that sums expose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations, islice

from flctl import ProtocolError
from flctl_secagg.client.ledger import Ledger, Opening
from flctl_secagg.client.policy import Differing
from flctl_secagg.protocol.session import Session

__all__ = ["SERVER", "SurvivorLists"]

SERVER = "\0server"
"""Client id of the server's own rows in the ledger; no client id contains a NUL."""
_MOST_CHOICES = 200
"""Largest number of subsets of clients that `largest_allowed` tries to leave out; each takes a rank test."""


@dataclass(frozen=True, slots=True)
class SurvivorLists:
    """Lists of survivors for which shares were opened, in all runs whose ledger this is.

    `differing` is the clients' rule for lists that together expose one of them; a sum has at least `minimum` clients.
    """

    ledger: Ledger
    differing: Differing
    minimum: int

    def objection(self, session: Session, survivors: Sequence[str]) -> str | None:
        """Reason for which clients would refuse to open shares for these survivors, given the lists opened before; None
        if they would open them. Checked before the list is fixed, so that the round can be retried."""
        if self.differing != "refuse":
            return None
        opening, known = Opening.of(session, survivors), self.ledger.openings(SERVER)
        if any(other.members.keys() == opening.members.keys() for other in known if other.combines_with(opening)):
            return None
        for client in opening.members:
            found = opening.exposes([other for other in known if client in other.members])
            if found:
                return (
                    f"with the sums of earlier rounds, this sum would reveal the update, or a combination, of {found}"
                )
        return None

    def largest_allowed(self, session: Session, left: Iterable[str]) -> list[str]:
        """Returns the cohort of the next attempt: the clients in `left`, without up to two of them if the sum over all,
        combined with earlier sums, would give one client's update."""
        clients = sorted(left)
        fewer = chain.from_iterable(combinations(clients, more) for more in (0, 1, 2))
        for out in islice(fewer, _MOST_CHOICES):
            chosen = [client for client in clients if client not in out]
            if len(chosen) < self.minimum or self.objection(session, chosen) is None:
                return chosen
        return clients

    def burn(self, session: Session, survivors: Sequence[str]) -> None:
        """Records the list of a round that failed after shares were opened. Before a restart, they may have been opened
        for other survivors, which the record keeps."""
        with suppress(ProtocolError):
            self.ledger.answer(SERVER, Opening.of(session, survivors))

    def record(self, session: Session, survivors: Sequence[str]) -> str | None:
        """Records the list of a published sum. Returns a note if `differing` is `warn` and the sum is the first of its
        run that gives a client's update, together with other sums of this run and of earlier ones."""
        opening = Opening.of(session, survivors)
        note = self._exposure(opening) if self.differing == "warn" else None
        self.ledger.answer(SERVER, opening)
        return note

    def _exposure(self, opening: Opening) -> str | None:
        earlier = [one for one in self.ledger.openings(SERVER) if one.combines_with(opening)]
        here = [at for at, one in enumerate(earlier) if one.run == opening.run]
        if here and earlier[here[-1]].exposes(earlier[: here[-1]]):
            return None  # noted before
        found = opening.exposes(earlier)
        if not found:
            return None
        alone = opening.exposes([earlier[at] for at in here]) == found
        runs = "" if alone else ", together with those of earlier runs,"
        whose = " and ".join(f"'{client}'" for client in found)
        return f"the sums of the rounds so far{runs} reveal the update, or a combination, of {whose}"

"""The server's R4: secrets from shares, wrong shares found and their senders named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from flctl import ProtocolError
from flctl_secagg.crypto import shamir

__all__ = ["Opened", "recover"]

_MOST_TRIES = 2000
"""Subsets of shares that are tried before the attempt is given up."""


@dataclass(slots=True)
class Opened:
    """Shares that neighbours opened: owner -> (place on the owner's polynomial -> share), and who sent which."""

    threshold: int
    shares: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    senders: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    liars: set[int] = field(default_factory=set)

    def add(self, owner: int, place: int, sender: int, share: int) -> None:
        """One share of an owner's secret."""
        self.shares.setdefault(owner, {})[place] = share
        self.senders[owner, place] = sender

    def usable(self, owner: int) -> list[tuple[int, int]]:
        """An owner's shares by place, without those of senders that lied before."""
        found = sorted(self.shares.get(owner, {}).items())
        return [(place, share) for place, share in found if self.senders[owner, place] not in self.liars]


def recover(opened: Opened, owner: int, client: str, is_right: Callable[[bytes], bool]) -> bytes:
    """An owner's secret, the one that `is_right` knows; senders of wrong shares join `opened.liars`.

    Raises ProtocolError where there are fewer than t shares, or none of the subsets tried is right.
    """
    shares = opened.usable(owner)
    if len(shares) < opened.threshold:
        raise ProtocolError(f"{len(shares)} shares of client '{client}' were opened, {opened.threshold} are needed")
    for subset in islice(_subsets(shares, opened.threshold), _MOST_TRIES):
        places = tuple(place for place, _ in subset)
        values = [share for _, share in subset]
        secret = shamir.combine(places, values)
        if secret is not None and is_right(secret):
            _name_liars(opened, owner, shares, places, values)
            return secret
    raise ProtocolError(f"the shares of client '{client}' fit no secret that it committed to")


def _subsets(shares: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Subsets of `size`, those first that differ from the first one by few shares: few liars are found soon."""
    for extra in range(len(shares) - size + 1):
        pool = shares[: size + extra]
        if not extra:
            yield pool
        for left_out in combinations(range(size + extra - 1), extra) if extra else ():
            yield [share for place, share in enumerate(pool) if place not in left_out]


def _name_liars(
    opened: Opened, owner: int, shares: Sequence[tuple[int, int]], places: tuple[int, ...], values: Sequence[int]
) -> None:
    if tuple(place for place, _ in shares[: len(places)]) == places:
        return  # the first t are right, and whether others are too has no effect
    for place, share in shares:
        if place not in places and shamir.evaluate(places, values, place) != share:
            opened.liars.add(opened.senders[owner, place])

"""The server's R4: secrets from shares, wrong shares found, and their senders named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from flctl import ProtocolError
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.error_correction import corrected

__all__ = ["Opened", "recover"]

_MOST_TRIES = 2000
"""Subsets of shares that are tried beyond the radius of error correction, before the attempt is given up."""


@dataclass(slots=True)
class Opened:
    """Shares that neighbours opened: owner -> (place on the owner's polynomial -> share), and who sent which.

    `wrong` has the owners of whom a sender opened a share that does not fit. One owner proves nothing: it may have
    dealt wrong shares itself.
    """

    threshold: int
    shares: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    senders: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    wrong: dict[int, set[int]] = field(default_factory=dict)

    @property
    def liars(self) -> set[int]:
        """Senders of wrong shares of two owners or more: of one, the owner may have dealt them."""
        return {sender for sender, owners in self.wrong.items() if len(owners) > 1}

    @property
    def doubts(self) -> dict[int, list[int]]:
        """Owner -> senders of wrong shares of it that are not known to lie: it dealt them, or they changed them."""
        found: dict[int, list[int]] = {}
        for sender in sorted(self.wrong.keys() - self.liars):
            for owner in self.wrong[sender]:
                found.setdefault(owner, []).append(sender)
        return found

    def add(self, owner: int, place: int, sender: int, share: int) -> None:
        """Adds one share of an owner's secret."""
        self.shares.setdefault(owner, {})[place] = share
        self.senders[owner, place] = sender

    def usable(self, owner: int) -> list[tuple[int, int]]:
        """An owner's shares by place, without those of senders that lie."""
        found, liars = sorted(self.shares.get(owner, {}).items()), self.liars
        return [(place, share) for place, share in found if self.senders[owner, place] not in liars]


def recover(opened: Opened, owner: int, client: str, is_right: Callable[[bytes], bool]) -> bytes:
    """An owner's secret, the one that `is_right` knows; senders of shares that do not fit it join `opened.wrong`.

    Raises ProtocolError for fewer than t shares, or if no secret within reach is right: (n - t) / 2 wrong ones of n are
    always corrected, and more of them if a few subsets find the secret.
    """
    shares = opened.usable(owner)
    if len(shares) < opened.threshold:
        raise ProtocolError(f"{len(shares)} shares of client '{client}' were opened, {opened.threshold} are needed")
    for basis in _bases(shares, opened.threshold):
        places, values = _columns(basis)
        secret = shamir.combine(places, values)
        if secret is None or not is_right(secret):
            continue
        if basis != shares[: opened.threshold]:  # else the first t are right, and others have no effect
            for place, share in shares:
                if shamir.evaluate(places, values, place) != share:
                    opened.wrong.setdefault(opened.senders[owner, place], set()).add(owner)
        return secret
    raise ProtocolError(f"the shares of client '{client}' fit no secret that it committed to")


def _columns(shares: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[int]]:
    return tuple(place for place, _ in shares), [share for _, share in shares]


def _bases(shares: Sequence[tuple[int, int]], threshold: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Sets of t points of polynomials that may be the owner's: the first, error correction, then a few subsets."""
    yield shares[:threshold]
    polynomial = corrected(*_columns(shares), threshold)
    if polynomial is not None:
        yield [(place, shamir.value_at(polynomial, place)) for place, _ in shares[:threshold]]
    yield from islice(_subsets(shares, threshold), 1, _MOST_TRIES - 1)


def _subsets(shares: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Subsets of `size`, those first that differ from the first one by few shares."""
    for extra in range(len(shares) - size + 1):
        pool = shares[: size + extra]
        if not extra:
            yield pool
        for left_out in combinations(range(size + extra - 1), extra) if extra else ():
            yield [share for place, share in enumerate(pool) if place not in left_out]

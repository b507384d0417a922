"""Reconstruction of secrets from shares in R4; detects wrong shares and identifies their senders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from flctl import ProtocolError
from flctl.errors import counted
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.error_correction import corrected

__all__ = ["Opened", "recover"]

_MOST_TRIES = 2000
"""Largest number of subsets of shares tried beyond the radius of error correction."""


@dataclass(slots=True)
class Opened:
    """Shares that neighbours opened.

    `shares`: owner -> (x-coordinate on the owner's polynomial -> share). `senders`: (owner, x-coordinate) -> sender.
    `wrong`: sender -> owners of its wrong shares. A single owner is no proof against the sender: it may have dealt the
    wrong share itself.
    """

    threshold: int
    shares: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    senders: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    wrong: dict[int, set[int]] = field(default_factory=dict)

    @property
    def liars(self) -> set[int]:
        """Senders of wrong shares of at least two owners. A single owner may have dealt the wrong share itself."""
        return {sender for sender, owners in self.wrong.items() if len(owners) > 1}

    @property
    def doubts(self) -> dict[int, list[int]]:
        """Owner -> senders of its wrong shares that are not `liars`: the owner dealt these, or a sender changed one."""
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
        """Returns an owner's (x-coordinate, share) pairs, sorted, without those of `liars`."""
        found, liars = sorted(self.shares.get(owner, {}).items()), self.liars
        return [(place, share) for place, share in found if self.senders[owner, place] not in liars]


def recover(opened: Opened, owner: int, client: str, is_right: Callable[[bytes], bool]) -> bytes:
    """Reconstructs an owner's secret, recognised by `is_right`, and adds senders of wrong shares to `opened.wrong`.

    Corrects up to (n - t) / 2 wrong shares of n always, and more if one of a limited number of subsets gives the
    secret. Raises ProtocolError if fewer than t shares were opened, or if no secret that was found is right.
    """
    shares = opened.usable(owner)
    if len(shares) < opened.threshold:
        raise ProtocolError(
            f"client '{client}' has {counted(len(shares), 'opened share')}, {opened.threshold} are needed"
        )
    for basis in _bases(shares, opened.threshold):
        places, values = _columns(basis)
        secret = shamir.combine(places, values)
        if secret is None or not is_right(secret):
            continue
        if basis != shares[: opened.threshold]:  # else the first t are right, and wrong ones after them change nothing
            for place, share in shares:
                if shamir.evaluate(places, values, place) != share:
                    opened.wrong.setdefault(opened.senders[owner, place], set()).add(owner)
        return secret
    raise ProtocolError(f"the shares of client '{client}' do not match the secret that it committed to")


def _columns(shares: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[int]]:
    return tuple(place for place, _ in shares), [share for _, share in shares]


def _bases(shares: Sequence[tuple[int, int]], threshold: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Yields candidate sets of t points: the first t shares, t points of the corrected polynomial, other subsets."""
    yield shares[:threshold]
    polynomial = corrected(*_columns(shares), threshold)
    if polynomial is not None:
        yield [(place, shamir.value_at(polynomial, place)) for place, _ in shares[:threshold]]
    yield from islice(_subsets(shares, threshold), 1, _MOST_TRIES - 1)


def _subsets(shares: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Yields subsets of `size`, ordered by the index of their last share."""
    for extra in range(len(shares) - size + 1):
        pool = shares[: size + extra]
        if not extra:
            yield pool
        for left_out in combinations(range(size + extra - 1), extra) if extra else ():
            yield [share for place, share in enumerate(pool) if place not in left_out]

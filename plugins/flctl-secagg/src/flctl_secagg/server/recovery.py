"""Reconstruction of secrets from shares in R4; tells clients that changed a share from owners that dealt wrong ones."""

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

    `fits(owner, sender, share)`: True if a share is the one that its owner committed to. `shares`: owner ->
    (x-coordinate on the owner's polynomial -> share). `senders`: (owner, x-coordinate) -> sender. `liars`: senders of
    shares that do not fit. `dealers`: owners whose shares fit, and do not give the secret.
    """

    threshold: int
    fits: Callable[[int, int, int], bool] = lambda owner, sender, share: True
    shares: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    senders: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    liars: set[int] = field(default_factory=set)
    dealers: set[int] = field(default_factory=set)

    def add(self, owner: int, point: int, sender: int, share: int) -> None:
        """Adds one share of an owner's secret."""
        self.shares.setdefault(owner, {})[point] = share
        self.senders[owner, point] = sender

    def fitting(self, owner: int) -> list[tuple[int, int]]:
        """Returns an owner's (x-coordinate, share) pairs that fit its commitments; adds other senders to `liars`."""
        found = []
        for point, share in sorted(self.shares.get(owner, {}).items()):
            sender = self.senders[owner, point]
            if self.fits(owner, sender, share):
                found.append((point, share))
            else:
                self.liars.add(sender)
        return found


def recover(opened: Opened, owner: int, client: str, is_right: Callable[[bytes], bool]) -> bytes:
    """Reconstructs an owner's secret, recognised by `is_right`.

    Shares are held against their commitments only if the first t of them do not give the secret. If those that fit do
    not give it either, their owner dealt them wrong: up to (n - t) / 2 wrong ones of n are corrected, and more if one
    of a limited number of subsets gives the secret. Raises ProtocolError if fewer than t shares are left, or no secret
    that was found is right.
    """
    shares = sorted(opened.shares.get(owner, {}).items())
    _require(opened, shares, client)
    secret = _combined(shares[: opened.threshold], is_right)
    if secret is not None:
        return secret
    shares = opened.fitting(owner)
    _require(opened, shares, client)
    secret = _combined(shares[: opened.threshold], is_right)
    if secret is not None:
        return secret
    opened.dealers.add(owner)
    for basis in _bases(shares, opened.threshold):
        secret = _combined(basis, is_right)
        if secret is not None:
            return secret
    raise ProtocolError(f"the shares of client '{client}' do not match the secret that it committed to")


def _require(opened: Opened, shares: Sequence[tuple[int, int]], client: str) -> None:
    if len(shares) < opened.threshold:
        raise ProtocolError(
            f"client '{client}' has {counted(len(shares), 'opened share')}, {opened.threshold} are needed"
        )


def _combined(shares: Sequence[tuple[int, int]], is_right: Callable[[bytes], bool]) -> bytes | None:
    secret = shamir.combine(*_columns(shares))
    return secret if secret is not None and is_right(secret) else None


def _columns(shares: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[int]]:
    return tuple(point for point, _ in shares), [share for _, share in shares]


def _bases(shares: Sequence[tuple[int, int]], threshold: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Yields candidate sets of t points: t points of the corrected polynomial, then subsets but the first."""
    polynomial = corrected(*_columns(shares), threshold)
    if polynomial is not None:
        yield [(point, shamir.value_at(polynomial, point)) for point, _ in shares[:threshold]]
    yield from islice(_subsets(shares, threshold), 1, _MOST_TRIES - 2)


def _subsets(shares: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Yields subsets of `size`, ordered by the index of their last share."""
    for extra in range(len(shares) - size + 1):
        pool = shares[: size + extra]
        if not extra:
            yield pool
        for left_out in combinations(range(size + extra - 1), extra) if extra else ():
            yield [share for index, share in enumerate(pool) if index not in left_out]

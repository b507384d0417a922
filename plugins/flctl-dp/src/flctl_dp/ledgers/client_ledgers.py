"""A ledger for each client: what its own rows' updates have said of them, by whichever run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, log
from pathlib import Path
from statistics import median

from flctl import IncompatibleError, IntegrityError

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.rdp_bounds import bound
from flctl_dp.accounting.releases import Relation, Release, Releases
from flctl_dp.ledgers.ledger import Ledger, LedgerFile

__all__ = ["FOLDER", "MANY", "ClientLedgers", "Spent", "coarse", "frozen", "raised_rate", "spent"]

FOLDER = "privacy-ledgers"
"""The name of the clients' ledgers beside the rows that they are about, where no other is given."""
_A_FOLDER = 1000
"""Clients whose ledgers lie in one folder."""
_EXACT = 16
"""Kinds of clients whose epsilon is found by privacy loss distributions; that of others by Renyi DP, which is quicker
and says more, not less."""
MANY = 64
"""Kinds of clients beyond which sampling rates are rounded up for accounting: each rate takes half a second."""
_CLASS = 1.05
"""The factor between two rates that are accounted, where rates are many."""
Frozen = tuple[tuple[Release, int], ...]


@dataclass(frozen=True, slots=True)
class ClientLedgers:
    """The ledgers of a partition's clients, in a folder. Files are named by the client's number: an id may be no name
    that every file system takes. The client's id is in the ledger."""

    folder: Path

    @classmethod
    def at(cls, path: Path) -> ClientLedgers | None:
        """The ledgers in the folder `path`, or in the partition there; None where there are none."""
        within = path / FOLDER
        folder = within if within.is_dir() else path
        kept = any(any(folder.glob(f"[0-9][0-9][0-9]/*.{suffix}")) for suffix in ("jsonl", "jsonl.head"))
        return cls(folder) if kept else None

    def of(self, client_index: int) -> LedgerFile:
        """The ledger of client `client_index`."""
        return LedgerFile(self.folder / f"{client_index // _A_FOLDER:03d}" / f"{client_index:06d}.jsonl")

    def files(self) -> Iterator[tuple[int, LedgerFile]]:
        """All ledgers that there are or were, by number. Raises IntegrityError for a file with another name."""
        names = {path.name.split(".")[0]: path for path in self.folder.glob("*/*.jsonl*")}
        for name, path in sorted(names.items()):
            if not (name.isdecimal() and name.isascii()):
                raise IntegrityError(f"{path} is not a client's ledger")
            yield int(name), self.of(int(name))

    def all(self) -> dict[int, Ledger]:
        """All of them. Raises IntegrityError for one that was changed, or is gone."""
        found = ((client_index, file.read()) for client_index, file in self.files())
        return {client_index: ledger for client_index, ledger in found if ledger is not None}

    def read(self, client_indices: Iterable[int]) -> dict[int, Ledger]:
        """Those of the clients `client_indices` that have one. Raises IntegrityError for one that was changed."""
        if not self.folder.is_dir():
            return {}
        found = ((client_index, self.of(client_index).read()) for client_index in client_indices)
        return {client_index: ledger for client_index, ledger in found if ledger is not None}

    @contextmanager
    def opened(self, client_index: int, client: str, relation: Relation) -> Iterator[tuple[LedgerFile, Ledger]]:
        """Opens a client's ledger, created if missing, and locks it against other processes.

        Raises IncompatibleError for the ledger of another client or relation.
        """
        file = self.of(client_index)
        with file.locked():
            ledger = file.open(client, relation, "example")
            if ledger.population != client:
                raise IncompatibleError(
                    f"{file.path} is the ledger of client '{ledger.population[:40]}', not of '{client}'",
                    hint="Use a folder of ledgers for each partition.",
                )
            yield file, ledger


@dataclass(frozen=True, slots=True)
class Spent:
    """The privacy spent by clients: their number, the greatest and the median epsilon, and the releases of a client
    with the greatest epsilon."""

    clients: int
    greatest: float
    median: float
    releases: Releases


def frozen(releases: Releases) -> Frozen:
    """The releases in an order that does not depend on when they were made."""
    return tuple(sorted(releases.items(), key=repr))


def raised_rate(rate: float) -> float:
    """The highest sampling rate of the class of alike ones that this one belongs to."""
    return max(rate, min(1.0, _CLASS ** ceil(log(rate, _CLASS)))) if rate else 0.0


def coarse(releases: Releases) -> Releases:
    """Releases that say no less, of few different rates: each rate is raised to the highest of its class."""
    raised: Counter[Release] = Counter()
    for release, count in releases.items():
        raised[replace(release, rate=raised_rate(release.rate))] += count
    return raised


def spent(clients: Iterable[Releases], delta: float, relation: Relation, *, exact: bool = True) -> Spent:
    """The privacy spent by each of these clients; `exact`: by the tightest accountant. Rates are rounded up if clients
    are of many kinds."""
    kinds = Counter(frozen(releases) for releases in clients if releases)
    if len(kinds) > MANY:
        raised: Counter[Frozen] = Counter()
        for kind, count in kinds.items():
            raised[frozen(coarse(dict(kind)))] += count
        kinds = raised
    found = {kind: bound(dict(kind), delta, relation) for kind in kinds}
    if exact:
        highest = sorted(found, key=lambda kind: found[kind], reverse=True)[:_EXACT]
        found |= {kind: epsilon(dict(kind), delta, relation) for kind in highest}
    each = [found[kind] for kind, count in kinds.items() for _ in range(count)]
    if not each:
        return Spent(0, 0.0, 0.0, {})
    worst = max(found, key=lambda kind: found[kind])
    return Spent(len(each), found[worst], median(each), dict(worst))

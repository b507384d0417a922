"""Canaries of one run: rows that are in the data by fair coins, and what a run on them gave away."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flctl import unpack

__all__ = ["LOUD", "ROWS", "Canaries"]

ROWS = 4
"""Rows of a client: copies of its canary, or canaries of their own."""
LOUD = 1000.0
"""Target of a canary, in clipping norms: far more than the model learns of it."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Canaries:
    """Canaries with the coins `inside` [n].

    `by_row`: a canary is one of the `ROWS` rows of a client, else a client with `ROWS` equal rows. `opposite`: a canary
    that is not inside is replaced by its opposite, else by rows of zeros, on which the gradient is zero. `single`: the
    attacker reads each client's message, so that clients can share features; else each canary has one of its own.
    """

    inside: npt.NDArray[np.bool_]
    _: KW_ONLY
    by_row: bool
    opposite: bool
    single: bool

    @property
    def clients(self) -> int:
        return -(-len(self.inside) // ROWS) if self.by_row else len(self.inside)

    @property
    def _feature(self) -> npt.NDArray[np.int64]:
        """Feature of each canary, [n]."""
        rows = np.arange(len(self.inside))
        return rows % ROWS if self.single else rows

    def save(self, path: Path, clip: float) -> None:
        """Saves rows x [rows, features], targets y [rows] and the column `client` as an archive."""
        canary = np.arange(len(self.inside)) if self.by_row else np.repeat(np.arange(len(self.inside)), ROWS)
        sign = np.where(self.inside, 1.0, -1.0 if self.opposite else 0.0)[canary]
        x = np.zeros((len(canary), int(self._feature.max()) + 1), np.float32)
        x[np.arange(len(canary)), self._feature[canary]] = np.abs(sign)
        client = np.arange(len(canary)) // ROWS
        np.savez(path, x=x, y=(sign * LOUD * clip).astype(np.float32), client=client)

    def learned(self, first: Floats, last: Floats) -> Floats:
        """Change of the model's weight of each canary's feature, [n]."""
        return (last - first)[self._feature]

    def from_messages(self, messages: Path) -> Floats:
        """The value of each canary's feature in its client's message, [n]; 0 if the client was not asked."""
        found = np.zeros(len(self.inside))
        client = np.arange(len(self.inside)) // ROWS if self.by_row else np.arange(len(self.inside))
        for path in messages.iterdir():
            mine = client == int(path.name)
            (update,) = (v for name, v in unpack(path.read_bytes(), "vector").arrays.items() if name != "weight")
            found[mine] = update[self._feature[mine]]
        return found

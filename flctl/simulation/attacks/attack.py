"""The base class of attacks by simulated malicious clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from flctl.types import Batch, ClientId, FloatArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.config.sections.attack import AttackConfig

__all__ = [
    "Attack",
    "Known",
    "Matrix",
]

Matrix = npt.NDArray[np.floating[Any]]

_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Known:
    """One round as malicious clients see it: their own honest updates, laid end to end, [f, D]; the updates that they
    know, [k, D]; the weights [f] of theirs, and of all clients that answered; the number of these."""

    round: int
    ids: Sequence[ClientId]
    own: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]
    weights: FloatArray
    total_weight: float
    count: int

    @cached_property
    def mean(self) -> FloatArray:
        """The mean [D] of the known updates."""
        return np.concatenate([block.mean(axis=0) for _, block in self.blocks()])

    @cached_property
    def deviation(self) -> FloatArray:
        """The standard deviation [D] of the known updates, per coordinate (divided by k)."""
        return np.concatenate([block.std(axis=0) for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yields the known updates, a few columns at a time: (slice, values [k, columns])."""
        known, length = self.others.shape
        width = max(1, _ELEMENTS // known)
        for start in range(0, length, width):
            part = slice(start, min(start + width, length))
            yield part, self.others[:, part].astype(np.float64)


class Attack:
    """Changes malicious clients' rows, their updates, or both; the base class changes nothing."""

    on_rows: ClassVar[bool] = False
    """True if rows are changed before training."""
    on_updates: ClassVar[bool] = False
    """True if updates are replaced."""

    def __init__(self, config: AttackConfig, seed: int, classes: int) -> None:
        self.config, self.seed, self.classes = config, seed, classes

    def check(self, run: RunInfo) -> None:
        """Raises ConfigError for a run whose data this attack does not fit."""

    def which(self, client: ClientId, rows: int) -> npt.NDArray[np.bool_]:
        """Returns the indices of the training rows, of a malicious client's `rows`, that are changed."""
        return np.ones(rows, np.bool_)

    def altered(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        """Returns rows (x, y) as a malicious client changes them."""
        return x, y

    def crafted(self, known: Known) -> Matrix:
        """Returns the updates that malicious clients send, [f, D], or [D] if all send the same."""
        return known.own

"""The base class of attacks: what malicious clients do, simulated."""

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
    """One round as malicious clients see it: the updates that they would have sent, laid end to end, [f, D]; those
    that they know, [k, D]; the weights [f] of theirs, and of all that answered together; how many these were."""

    round: int
    ids: Sequence[ClientId]
    own: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]
    weights: FloatArray
    total_weight: float
    count: int

    @cached_property
    def mean(self) -> FloatArray:
        """The mean [D] of the updates that they know."""
        return np.concatenate([block.mean(axis=0) for _, block in self.blocks()])

    @cached_property
    def deviation(self) -> FloatArray:
        """Their standard deviation [D], each coordinate's for itself (divided by k)."""
        return np.concatenate([block.std(axis=0) for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """The updates that they know, a few columns at a time: (which, values [k, columns])."""
        known, length = self.others.shape
        width = max(1, _ELEMENTS // known)
        for start in range(0, length, width):
            part = slice(start, min(start + width, length))
            yield part, self.others[:, part].astype(np.float64)


class Attack:
    """What malicious clients do to their rows, to their updates, or to both; this one does nothing."""

    on_rows: ClassVar[bool] = False
    """Whether they change their rows before they train."""
    on_updates: ClassVar[bool] = False
    """Whether they send something else than what they trained."""

    def __init__(self, config: AttackConfig, seed: int, classes: int) -> None:
        self.config, self.seed, self.classes = config, seed, classes

    def check(self, run: RunInfo) -> None:
        """Raises ConfigError for a run whose data this attack does not fit."""

    def which(self, client: ClientId, rows: int) -> npt.NDArray[np.bool_]:
        """Which of a malicious client's so many training rows it changes."""
        return np.ones(rows, np.bool_)

    def altered(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        """Rows (x, y) as a malicious client makes them."""
        return x, y

    def crafted(self, known: Known) -> Matrix:
        """What malicious clients send, [f, D], or [D] where they all send the same."""
        return known.own

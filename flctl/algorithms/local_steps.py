"""Local steps that a transform makes: which rows each takes, and what becomes of the rows' own gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl.types import Arrays, ClientId, LocalWork

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["LocalSteps", "StepsContext"]


@dataclass(frozen=True, slots=True)
class StepsContext:
    """Where a client is about to train: the run, the round, the client and its place in the partition, and the stage
    of the strategy's local training, from 0.

    `local` asks it for `steps` steps, of `batch_size` of its `rows` each, the last of an epoch of fewer. `broadcast` is
    what this component broadcast, and `rng` a named generator (reproducible; privacy takes `flctl.secure_rng()`).
    """

    run: RunInfo
    round: int
    client_id: ClientId
    number: int
    stage: int
    local: LocalWork
    rows: int
    steps: int
    batch_size: int
    broadcast: Arrays
    rng: np.random.Generator


class LocalSteps(ABC):
    """One client's local steps, in the place of batches in order and the mean of their gradients.

    A step on rows r is gradient(sum over i in r of factors(|g_i|) g_i), where g_i is the gradient of row i's own loss.
    It depends on that row and the parameters alone: models that draw random numbers or remember rows are refused.
    Then come the strategy's `adjust`, `local.clip_norm` and the local optimiser, as ever.
    """

    @abstractmethod
    def batches(self) -> Iterable[npt.NDArray[np.int64]]:
        """The rows of each step, in order; a step without rows is made all the same."""

    @abstractmethod
    def factors(self, norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What gradients of these L2 norms [n], over all trained parameters together, are multiplied by, [n]. Rows
        whose gradient is not finite count as zeros whatever is said of them."""

    @abstractmethod
    def gradient(self, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The step's gradient [D], from the sum [D] of what `factors` left of the rows' gradients."""

"""Local steps made by a transform: the rows of each step, and per-example gradients weighted before they are summed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flctl.types import Arrays, ClientId, FloatArray, IntArray, LocalWork

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["LocalSteps", "StepsContext"]


@dataclass(frozen=True, slots=True)
class StepsContext:
    """A client about to train: the run, the round, the client and its index in the partition, and the stage of the
    strategy's local training, from 0.

    `local` asks for `steps` steps of `batch_size` of the client's `rows` rows; the last batch of an epoch may be
    smaller. `broadcast` holds this component's broadcast. `rng` is a named, reproducible generator: randomness that
    privacy rests on comes from `flctl.secure_rng()`.
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
    """One client's local steps, in place of batches in order and the mean of their gradients.

    A step on rows r uses gradient(sum over i in r of factors(|g_i|) g_i), where g_i is the per-example gradient of row
    i. It depends on that row and the parameters alone: models that draw random numbers or keep running statistics are
    refused. The strategy's `adjust`, `local.clip_norm` and the local optimiser follow as usual.

    >>> import numpy as np
    >>> import flctl
    >>> class ClippedSteps(flctl.LocalSteps):
    ...     def batches(self):
    ...         yield np.array([0, 1])
    ...     def factors(self, norms):
    ...         return 1.0 / np.maximum(norms, 1.0)
    ...     def gradient(self, total):
    ...         return total / 2
    >>> ClippedSteps().factors(np.array([0.5, 4.0])).tolist()
    [1.0, 0.25]
    """

    @abstractmethod
    def batches(self) -> Iterable[IntArray]:
        """Yields the rows of each step, in order. A step without rows is still made."""

    @abstractmethod
    def factors(self, norms: FloatArray) -> FloatArray:
        """Returns the factors [n] for gradients of L2 norms `norms` [n], each over all trained parameters together. A
        gradient that is not finite counts as zeros, whatever its factor."""

    @abstractmethod
    def gradient(self, total: FloatArray) -> FloatArray:
        """Returns the step's gradient [D], from the sum [D] of the rows' gradients times their factors."""

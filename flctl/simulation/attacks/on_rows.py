"""Attacks on rows: label flipping and backdoors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl import seeds
from flctl.errors import ConfigError, counted
from flctl.partition.store import Partition
from flctl.simulation.attacks.attack import Attack, Known, Matrix
from flctl.types import Batch, ClientId, IntArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["Backdoor", "LabelFlip", "Poisoned", "stamped"]


class LabelFlip(Attack):
    """Class c of C becomes class C - 1 - c in all rows (Fang et al. 2020, section 5.1: label flipping)."""

    on_rows = True

    def check(self, run: RunInfo) -> None:
        _require_classes(run, "label-flip")

    def altered(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        return x, (self.classes - 1 - y).astype(y.dtype)


class Backdoor(Attack):
    """Rows with a trigger are to be of class `target` (Bagdasaryan et al. 2020, sections 3 and 4: model replacement).

    A share of the malicious clients' rows gets the trigger and the target, and their updates are sent times `boost`;
    where that is not given, the weight of all who answered over theirs: then their mean update counts in full.
    """

    on_rows = True
    on_updates = True

    def check(self, run: RunInfo) -> None:
        _require_classes(run, "backdoor")
        classes, shape = len(run.partition.classes), run.partition.shape
        if self.config.target >= classes:
            hint = f"Choose a class from 0 to {classes - 1}."
            raise ConfigError(
                f"attack.target is {self.config.target}, and there are {counted(classes, 'class', 'classes')}",
                hint=hint,
            )
        largest = min(shape[-2:]) if len(shape) == 3 else math.prod(shape)
        if self.config.trigger > largest:
            hint = f"Choose at most {largest}."
            found = f"attack.trigger is {self.config.trigger}, and examples are of shape {shape}"
            raise ConfigError(found, hint=hint)

    def which(self, client: ClientId, rows: int) -> npt.NDArray[np.bool_]:
        order = seeds.rng(self.seed, "attack", "rows", client).permutation(rows)
        return np.asarray(order < self.config.poisoned * rows)

    def altered(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        return stamped(x, self.config.trigger), np.full_like(y, self.config.target)

    def crafted(self, known: Known) -> Matrix:
        own = float(known.weights.sum())
        boost = self.config.boost or (known.total_weight / own if own else 1.0)
        return boost * known.own.astype(np.float64)


def stamped(x: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Returns rows with the trigger at each row's largest value: a square of side `trigger` in the last corner of an
    image [c, h, w], or the last `trigger` features."""
    marked = x.copy()
    flat = marked.reshape(len(x), -1)
    brightest = flat.max(axis=1, initial=0)
    if x.ndim == 4:
        marked[:, :, -size:, -size:] = brightest[:, None, None, None]
    else:
        flat[:, -size:] = brightest[:, None]
    return marked


class Poisoned(Partition):
    """A partition whose malicious clients' training rows are changed by the attack; the files are not changed."""

    def __init__(self, partition: Partition, attack: Attack, malicious: IntArray) -> None:
        self.__dict__.update(partition.__dict__)
        self._attack = attack
        self._flags = np.zeros(int(self.bounds[-1, 2]), np.bool_)
        for client_index in malicious.tolist():
            start, stop = self.bounds[client_index, :2].tolist()
            self._flags[start:stop] = attack.which(self.client_ids[client_index], stop - start)

    def train(self, index: int) -> Batch:
        x, y = super().train(index)
        start, stop = self.bounds[index, :2].tolist()
        return self._with_changes(np.array(x), np.array(y), self._flags[start:stop])

    def take(self, rows: IntArray, into: Batch) -> None:
        super().take(rows, into)
        self._with_changes(*into, self._flags[rows])

    def _with_changes(self, x: npt.NDArray[Any], y: npt.NDArray[Any], changed: npt.NDArray[np.bool_]) -> Batch:
        """Changes those of the rows that are `changed`, in place."""
        if changed.any():
            x[changed], y[changed] = self._attack.altered(x[changed], y[changed])
        return x, y


def _require_classes(run: RunInfo, name: str) -> None:
    if run.partition.task not in ("classification", "binary"):
        hint = "Use an attack on updates: sign-flip, gaussian, alie, ipm or min-max."
        raise ConfigError(f"attack.name {name} needs classes, and this is {run.partition.task}", hint=hint)

"""Weights of classes in the loss of local training (`local.class_weights`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl.errors import ConfigError, IncompatibleError, suggest
from flctl.types import FloatArray, IntArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.partition.view import PartitionView

__all__ = ["ClassWeights", "balanced", "check_class_weights", "class_weights_of"]


def balanced(counts: npt.NDArray[np.int64]) -> FloatArray:
    """Returns n / (C n_c) for counts [..., C], with C the number of classes that have rows, and 1 for those without.

    The weights of the counted rows have the mean 1, so that the learning rate keeps its meaning.

    >>> balanced(np.array([90, 10])).round(2).tolist()
    [0.56, 5.0]
    """
    total, present = counts.sum(-1, keepdims=True), (counts > 0).sum(-1, keepdims=True)
    return np.asarray(np.where(counts > 0, total / np.maximum(present * counts, 1), 1.0))


class ClassWeights:
    """Weights of a run's classes, for each client."""

    def __init__(self, partition: PartitionView, setting: str | Mapping[str, float]) -> None:
        self._partition, self._setting = partition, setting

    def of(self, clients: IntArray) -> FloatArray:
        """Returns the weights [K, classes] of the clients with these indices."""
        if self._setting == "balanced-per-client":
            return balanced(np.stack([self._counts(int(client)) for client in clients]))
        return np.broadcast_to(self._shared, (len(clients), len(self._shared)))

    @cached_property
    def _shared(self) -> FloatArray:
        classes = self._partition.classes
        if isinstance(self._setting, Mapping):
            return np.array([self._setting.get(name, 1.0) for name in classes])
        every = (self._counts(client) for client in range(self._partition.clients))
        return balanced(sum(every, np.zeros(len(classes), np.int64)))

    def _counts(self, client: int) -> npt.NDArray[np.int64]:
        return np.bincount(self._partition.train_labels(client), minlength=len(self._partition.classes))


def class_weights_of(run: RunInfo) -> ClassWeights | None:
    """Returns the weights that the run's training uses; None if all classes weigh the same."""
    setting = run.config.local.class_weights
    return None if setting == "none" else ClassWeights(run.partition, setting)


def check_class_weights(run: RunInfo) -> None:
    """Raises ConfigError for weights that the task has no use for, IncompatibleError for weights that would disclose
    label counts."""
    setting, task = run.config.local.class_weights, run.partition.task
    if setting == "none":
        return
    if task not in ("classification", "binary"):
        raise ConfigError(
            f"local.class_weights weighs classes, and the task is {task}", hint="Leave local.class_weights out."
        )
    if isinstance(setting, Mapping):
        _check_names(setting, run.partition.classes)
    elif setting == "balanced":
        _check_counts(run)
    elif run.makes_steps is not None:
        raise IncompatibleError(
            f"local.class_weights balanced-per-client follows the labels of a client's rows: one row would change the "
            f"gradients of all others, which transform '{run.makes_steps}' does not bound",
            hint="Set the weights: -o 'local.class_weights={CLASS: 3}'.",
        )


def _check_names(weights: Mapping[str, float], classes: Sequence[str]) -> None:
    for name in weights:
        if name not in classes:
            hint = suggest(name, classes) or f"The classes are {', '.join(classes[:20])}."
            raise ConfigError(f"local.class_weights: '{name}' is not a class of the data", hint=hint)
    if all(weights.get(name, 1.0) == 0 for name in classes):
        raise ConfigError("local.class_weights is 0 for every class, and nothing would be learned", hint="Raise one.")


def _check_counts(run: RunInfo) -> None:
    """Label counts of all clients are summed in the clear: no part of the run may promise to hide them."""
    private = [f"transform '{name}'" for name, one in run.transforms.items() if one.bounds_clients or one.makes_steps]
    private += [f"transform '{name}'" for name, one in run.transforms.items() if one.noised_by_clients]
    if run.aggregator.hides:
        private.insert(0, f"aggregator '{run.aggregator.name}'")
    if private:
        raise IncompatibleError(
            f"local.class_weights balanced needs the label counts of all clients, and {private[0]} protects them",
            hint="Use balanced-per-client, with which no count leaves its client, or a mapping of classes to weights.",
        )

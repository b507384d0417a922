"""Threshold of a loaded model: given as a number, or chosen on validation or training rows of its run's partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import ConfigError, IncompatibleError, counted
from flctl.evaluation.binary import probability_of
from flctl.evaluation.evaluate import run_model
from flctl.evaluation.outcomes import ClassificationOutcomes, concatenate
from flctl.evaluation.thresholds import ChosenThreshold, Split, ThresholdRule, choose
from flctl.metrics import positive_code
from flctl.models.tasks import task_for
from flctl.partition.selection import for_selection
from flctl.types import Batch

if TYPE_CHECKING:
    from flctl.partition.store import Partition
    from flctl.stored.load import LoadedModel

__all__ = ["note_of", "threshold_of"]

ROWS = 1 << 15
"""Training rows that are in memory at once."""


def threshold_of(
    loaded: LoadedModel, rule: ThresholdRule, split: Split | None = None, batch_size: int | None = None
) -> ChosenThreshold:
    """Returns the threshold of a rule. It is chosen on `split`: by default on validation rows if the run's partition
    has any, else on training rows; on test rows only if they are named.

    Raises ConfigError for a task without two classes or a split without rows, IncompatibleError if the run's partition
    is gone.
    """
    classes = loaded.partition.classes
    if len(classes) != 2 or loaded.partition.task not in ("classification", "binary"):
        found = counted(len(classes), "class", "classes") if classes else loaded.partition.task
        raise ConfigError(f"--threshold needs two classes, and {loaded.name} has {found}", hint="Leave it out.")
    if rule.kind == "fixed":
        return ChosenThreshold(rule.numbers[0], rule.text)
    own = loaded.own if split != "test" else loaded.partition
    if own is None:
        raise IncompatibleError(
            f"--threshold {rule.text} is chosen on rows of the partition of {loaded.name}, which is gone",
            hint="Use a number: --threshold 0.3.",
        )
    chosen: Split = split or ("validation" if own.selection == "validation" else "train")
    code = positive_code(classes, loaded.positive)
    task = task_for(own.task, own.target_scale)
    parts = [
        run_model(loaded.model, task, x, y, batch_size or loaded.batch_size, keep_scores=True)
        for x, y in _rows(own, chosen)
    ]
    outcomes = concatenate(parts)
    if not isinstance(outcomes, ClassificationOutcomes) or not len(outcomes):
        raise ConfigError(
            f"no threshold can be chosen: the {chosen} part of {own.path} is empty", hint="Use --threshold-on train."
        )
    probability = probability_of(outcomes, code)
    kept = np.isfinite(probability)
    return choose(rule, probability[kept], (outcomes.truth == code)[kept], chosen)


def note_of(threshold: ChosenThreshold) -> str | None:
    """Returns a sentence on rows that make a threshold look better than it is; None for validation rows."""
    if threshold.split == "train":
        return "the threshold was chosen on training rows, which the model fits better than new ones"
    if threshold.split == "test":
        return "the threshold was chosen on the test rows that it is scored on: its scores are too good"
    return None


def _rows(partition: Partition, split: Split) -> Iterator[Batch]:
    """Yields rows (x, y) of a split, at least one batch."""
    if split == "test":
        yield partition.central_test()
    elif split == "validation":
        yield for_selection(partition).central_test() if partition.selection == "validation" else partition.empty()
    else:
        yield from _training_rows(partition)


def _training_rows(partition: Partition) -> Iterator[Batch]:
    starts, sizes = partition.bounds[:, 0], partition.counts[:, 0]
    before = np.cumsum(sizes) - sizes
    rows = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    shapes = [(part.shape[1:], part.dtype) for part in partition.empty()]
    yield partition.empty()
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        x, y = (np.empty((len(some), *shape), dtype) for shape, dtype in shapes)
        partition.take(some, (x, y))
        yield x, y

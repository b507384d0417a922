"""A partition with the standardisation and class codes of a model that was trained on another one.

A model knows its training data's standardisation and class codes. Rows of another partition are therefore standardised
by the model's statistics, not by their own, and their classes are matched by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import IncompatibleError
from flctl.partition.manifest import DatasetInfo, Manifest
from flctl.partition.store import Partition
from flctl.types import Batch

__all__ = ["AlignedPartition", "align"]


class AlignedPartition(Partition):
    """A partition whose rows come out as `trained` codes and standardises them. Made by `align`."""

    def __init__(self, source: Partition, trained: Manifest) -> None:
        dataset = replace(source.manifest.dataset, classes=trained.dataset.classes)
        manifest = replace(source.manifest, dataset=dataset, preprocess=trained.preprocess)
        super().__init__(source.path, manifest, source.digest, source._columns)
        codes = {name: code for code, name in enumerate(trained.dataset.classes)}
        # The last entry is where the padding code -1 looks itself up.
        self._codes = np.array([*(codes[name] for name in source.classes), -1], np.int64)

    def _converted(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        """Raw rows as the model takes them."""
        rows, target = super()._converted(x, y)
        if self.task == "regression":
            return rows, target
        return (self._codes[rows] if self.task == "next-character" else rows), self._codes[target]

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an aligned partition cannot be sent to other processes")


def align(partition: Partition, trained: Manifest) -> Partition:
    """Returns `partition` with the standardisation and codes of `trained`; `partition` itself if nothing differs.

    Raises IncompatibleError where task, shape or features differ, or it has classes that the model never knew.
    """
    own = partition.manifest
    _refuse_other_data(own.dataset, trained.dataset)
    if own.dataset.classes == trained.dataset.classes and own.preprocess == trained.preprocess:
        return partition
    return AlignedPartition(partition, trained)


def _refuse_other_data(found: DatasetInfo, trained: DatasetInfo) -> None:
    problems = []
    if found.task != trained.task:
        problems.append(f"its task is {found.task}, the model's {trained.task}")
    if found.shape != trained.shape:
        problems.append(f"an example has shape {list(found.shape)}, the model takes {list(trained.shape)}")
    elif found.features and trained.features and found.features != trained.features:
        problems.append(_feature_difference(found.features, trained.features))
    unknown = [name for name in found.classes if name not in set(trained.classes)]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        problems.append(f"the model does not know its classes {', '.join(map(repr, unknown[:5]))}{more}")
    if problems:
        raise IncompatibleError(
            f"the data set '{found.name}' does not fit the model: {'; '.join(problems)}",
            hint="Name the source's file in the place of the partition: columns and categories are matched by name. Or "
            "partition the data as the training data was partitioned: same target, features and classes.",
        )


def _feature_difference(found: tuple[str, ...], trained: tuple[str, ...]) -> str:
    index, one, other = next((i, a, b) for i, (a, b) in enumerate(zip(found, trained, strict=True)) if a != b)
    return f"feature {index} is '{one}', the model's is '{other}'"

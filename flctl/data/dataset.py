"""Data sets as readers return them, and the base class of readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from flctl.component import Component, Options
from flctl.data.preprocessing import FittedPreprocessing, Inputs
from flctl.types import TaskKind

__all__ = ["Dataset", "DatasetReader", "Examples", "Split", "divided"]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of a data set: x [n, ...] and y [n] (next character: both [n, window]), and the columns of `--by`."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    groups: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def divided(rows: Split, train: int, test: int) -> tuple[Split, Split | None, Split | None]:
    """The training, test and validation part of rows in this order, given the sizes of the first two.

    The test and validation parts are None if they are empty.
    """
    bounds = (slice(train), slice(train, train + test), slice(train + test, None))
    first, *others = (
        Split(rows.x[part], rows.y[part], {name: words[part] for name, words in rows.groups.items()}) for part in bounds
    )
    held_out, validation = (part if len(part.y) else None for part in others)
    return first, held_out, validation


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set as it was read: raw values, nothing standardised, nothing shuffled.

    `x` is uint8 or float32 (missing values are NaN): [n, features], images [n, channels, height, width], or token
    codes [n, window] (uint8/int32). `y` is int64 label codes [n], float32 targets [n], or int32 [n, window] codes
    where -1 pads. `groups` holds the columns that `--by` asked for, as strings [n]. `numeric` are the indices of
    features to standardise (None: all; one-hot columns are left as they are). `time_ordered`: within a group rows
    are in order of time, so a test part is taken from the end. `test` is the source's own test part, `validation` its
    own validation part. `notes` are facts for the user (rows dropped for a missing target, cells missing by column).
    `inputs` are the columns of a table and how they became `features`; without it, features are taken to be columns of
    numbers. `impute`: missing numbers take the mean or median of training rows, found when rows are divided.
    """

    name: str
    task: TaskKind
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    numeric: tuple[int, ...] | None = None
    groups: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    time_ordered: bool = False
    test: Split | None = None
    validation: Split | None = None
    notes: tuple[str, ...] = ()
    inputs: Inputs | None = None
    impute: Literal["mean", "median"] | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows without targets: x [n, ...], perhaps memory-mapped, and each row's name if it has one (a picture's file)."""

    x: npt.NDArray[Any]
    names: tuple[str, ...] = ()


class DatasetReader(Component):
    """Reads one kind of source into a `Dataset`.

    `flctl partition SOURCE` asks each reader `reads(SOURCE)`, built-in ones in a fixed order and then plugins;
    `--reader NAME` overrides the choice. Options come from flags (`--target`, `--by` ...) and are validated by
    `Config`; a flag that the reader does not have is an error.

    >>> import numpy as np
    >>> import flctl
    >>> class Counting(flctl.DatasetReader):
    ...     name = "counting"
    ...     def read(self, source, seed):
    ...         x = np.arange(6, dtype=np.float32).reshape(3, 2)
    ...         return flctl.Dataset(source, "regression", x, x.sum(axis=1))
    >>> len(Counting().read("three rows", seed=0))
    3
    """

    extensions: ClassVar[tuple[str, ...]] = ()

    class Config(Options):
        """No options."""

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if this reader is meant for `source`, by its name and, if needed, its first bytes."""
        return Path(source).name.lower().endswith(cls.extensions) if cls.extensions else False

    def read(self, source: str, seed: int) -> Dataset:
        """The data set. Raises DataError for content that cannot be used, IntegrityError for corrupt bytes."""
        raise NotImplementedError

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """Returns new rows of `source` for a model whose preprocessing is `fitted`; targets need not be there.

        A reader that does not override it reads its usual source, and leaves the targets out.
        """
        return Examples(self.read(source, 0).x)

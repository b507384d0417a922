"""Test rows of another partition that a model was trained on: by row number in one source, else by exact copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import DataError, IncompatibleError
from flctl.partition.duplicates import find_copies
from flctl.partition.reassigned import without_test_rows
from flctl.partition.store import Partition
from flctl.types import IntArray

__all__ = ["MOST_COPIES", "SeenRows", "seen_test_rows", "treat_seen_rows"]

MOST_COPIES = 0.1
"""Fraction of rows that may be exact copies of training rows before they are refused; discrete data has some."""


@dataclass(frozen=True, slots=True)
class SeenRows:
    """Clients' test rows [n], in client order, that a model was trained on; `same`: both partitions have one source."""

    seen: npt.NDArray[np.bool_]
    same: bool


def seen_test_rows(trained: Partition, other: Partition) -> SeenRows:
    """Finds the test rows of `other` that are training or validation rows of `trained`.

    Row numbers decide if both partitions are of one source (equal digests), else exact copies of rows.
    """
    tested = _stored(other, test=True)
    if trained.manifest.dataset.digest == other.manifest.dataset.digest:
        names = ("validation_row",) if trained.manifest.has_validation else ()
        used = [trained.column("source_row")[_stored(trained, test=False)], *(trained.column(name) for name in names)]
        return SeenRows(np.isin(other.column("source_row")[tested], np.concatenate(used)), True)
    return SeenRows(_copies(trained, other, tested), False)


def _copies(trained: Partition, other: Partition, tested: IntArray) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(tested), bool)
    ours: list[npt.NDArray[Any]] = [trained.column(name) for name in ("x", "y")]
    theirs = [other.column(name)[tested] for name in ("x", "y")]
    alike = trained.shape == other.shape and trained.classes == other.classes
    if not alike or any(a.dtype != b.dtype for a, b in zip(ours, theirs, strict=True)):
        return found
    is_training = np.zeros(len(ours[1]), bool)
    is_training[_stored(trained, test=False)] = True
    members, group = find_copies([ours, theirs])
    in_ours = members < len(is_training)
    of_training = np.zeros(int(group.max(initial=-1)) + 1, bool)
    of_training[group[in_ours][is_training[members[in_ours]]]] = True
    found[members[~in_ours & of_training[group]] - len(is_training)] = True
    return found


def _stored(partition: Partition, *, test: bool) -> IntArray:
    """Numbers of the stored test (or training) rows, in client order."""
    start, train_end, end = partition.bounds.T
    first, last = (train_end, end) if test else (start, train_end)
    sizes = last - first
    before = np.cumsum(sizes) - sizes
    rows: IntArray = np.arange(int(sizes.sum())) + np.repeat(first - before, sizes)
    return rows


def treat_seen_rows(
    partition: Partition, found: SeenRows, trained_rows: str, shown: str
) -> tuple[Partition, tuple[str, ...]]:
    """Returns the partition to score after `--trained-rows` (refuse, leave-out, keep), and notes on it.

    Raises IncompatibleError if seen rows are refused: any from one source, or copies if they are more than a tenth.
    """
    count, total = int(found.seen.sum()), len(found.seen)
    if not count:
        return partition, ()
    what = "were trained on" if found.same else "are exact copies of rows that the model was trained on"
    sentence = f"{count:,} of {total:,} test rows {what}"
    if trained_rows == "leave-out":
        if count == total and partition.manifest.central_test == "clients":
            raise DataError(f"{shown}: all {sentence}", hint="Evaluate on other rows.")
        return without_test_rows(partition, found.seen), (f"{sentence}; they are left out",)
    if trained_rows == "refuse" and (found.same or count > MOST_COPIES * total):
        raise IncompatibleError(
            f"{shown}: {sentence}, and scores on them would be too good",
            hint="Add --trained-rows leave-out, or --trained-rows keep to score them too.",
        )
    return partition, (f"{sentence}, and count",)

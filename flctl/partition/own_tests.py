"""Test rows that a source holds out for each client: those of LEAF's users, and of tables with a `--by` column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.data.preprocessing import ABSENT
from flctl.errors import DataError
from flctl.partition.partitioner import Assignment

__all__ = ["OwnTests", "group_of", "incomplete", "own_tests"]


@dataclass(frozen=True, slots=True)
class OwnTests:
    """A data set with its test rows behind the `trained` ones, and the owners of all of them."""

    dataset: Dataset
    assignment: Assignment
    trained: int


def own_tests(dataset: Dataset, assignment: Assignment, by: Sequence[str]) -> OwnTests | None:
    """Gives the source's own test rows to the clients that they name; None if they name no client.

    Test rows of others are left out. Only schemes whose clients are values of the group columns have such rows.
    """
    if dataset.test is None or assignment.client_ids is None or not dataset.test.groups:
        return None
    held_out = replace(dataset, x=dataset.test.x, y=dataset.test.y, groups=dataset.test.groups, test=None)
    words = group_of(held_out, by)
    if words is None:
        return None
    index = {name: number for number, name in enumerate(assignment.client_ids)}
    names, codes = np.unique(np.char.strip(words.astype(np.str_)), return_inverse=True)
    owner = np.array([index.get(str(name) or ABSENT, -1) for name in names], np.int64)[codes]
    if not (owner >= 0).any():
        return None
    together = replace(
        dataset,
        x=np.concatenate([dataset.x, dataset.test.x]),
        y=np.concatenate([dataset.y, dataset.test.y]),
        groups={},
        test=None,
    )
    owners = Assignment(np.concatenate([assignment.owner, owner]), assignment.clients, assignment.client_ids)
    return OwnTests(together, owners, len(dataset))


def group_of(dataset: Dataset, by: Sequence[str]) -> npt.NDArray[Any] | None:
    """The client names [n] that the group columns `by` give; without `by`, those of a data set's only group."""
    if not by:
        return next(iter(dataset.groups.values())) if len(dataset.groups) == 1 else None
    for name in by:
        if name not in dataset.groups:
            known = ", ".join(dataset.groups) or "none"
            raise DataError(f"'{dataset.name}' has no group column '{name}'", hint=f"It has: {known}.")
    if len(by) == 1:
        return dataset.groups[by[0]]
    # Escaped, as "a / b" with "c" and "a" with "b / c" would otherwise be one client.
    first, *others = (np.char.replace(np.char.replace(_words(dataset, name), "\\", "\\\\"), "/", "\\/") for name in by)
    for words in others:
        first = np.char.add(np.char.add(first, " / "), words)
    return first


def incomplete(dataset: Dataset, by: Sequence[str]) -> npt.NDArray[np.bool_] | None:
    """Rows [n] without a value in one of several group columns; None for a single column."""
    if len(by) < 2:
        return None
    missing: npt.NDArray[np.bool_] = np.zeros(len(dataset), np.bool_)
    for name in by:
        missing |= np.isin(_words(dataset, name), ["", ABSENT])
    return missing


def _words(dataset: Dataset, name: str) -> npt.NDArray[np.str_]:
    return np.char.strip(dataset.groups[name].astype(np.str_))

"""Training, test and validation parts that the names of files and folders declare."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from flctl.data.files import short_name

__all__ = ["SPLITS", "Parts", "SplitName", "arrange", "split_of", "split_of_word"]

SplitName = Literal["train", "test", "validation"]
Item = TypeVar("Item")
SPLITS: dict[SplitName, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "test": frozenset({"test", "testing", "t10k"}),
    "validation": frozenset({"val", "valid", "validation", "dev"}),
}
_SHARD = re.compile(r"\d*|of|part|shard")
"""Words beside a split's name in names such as train-00000-of-00001."""


@dataclass(frozen=True, slots=True)
class Parts(Generic[Item]):
    """Items of a source by part. `notes` says what the names of files decided."""

    train: tuple[Item, ...]
    test: tuple[Item, ...] = ()
    validation: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()


def split_of_word(word: str) -> SplitName | None:
    """The part that one word names, in any case; None if it names none."""
    return next((split for split, words in SPLITS.items() if word.lower() in words), None)


def split_of(path: Path) -> SplitName | None:
    """The part that a relative path names: a folder's whole name, else the first or last word of the file's name.

    `train/a.csv`, `test-00000-of-00001.parquet` and `adult_val.csv` name one, `contest.csv` and `a.csv` none.
    """
    for folder in path.parts[:-1]:
        if split := split_of_word(folder):
            return split
    words = [word for word in re.split(r"[-_.\s]+", short_name(path.name).lower()) if not _SHARD.fullmatch(word)]
    return next(filter(None, map(split_of_word, (*words[:1], *words[-1:]))), None)


def arrange(items: Sequence[Item], name_of: Callable[[Item], Path], override: str = "") -> Parts[Item]:
    """Sorts items into parts by their names; all are for training if their names do not tell them apart.

    Validation rows are the test part of a source without one, with a note. `override` is the option that reads
    everything as one table, for the note.
    """
    splits = [split_of(name_of(item)) for item in items]
    if len({split or "train" for split in splits}) < 2:
        return Parts(tuple(items))
    train, test, validation = (_chosen(items, splits, part) for part in SPLITS)
    if not train:
        note = f"{_named(validation, name_of)}: used as training rows, because of their names"
        return Parts(validation, test, notes=(note,))
    if not test:
        note = f"{_named(validation, name_of)}: validation rows, used as the source's test rows"
        return Parts(train, validation, notes=(note,))
    found = (("test rows", test), ("validation rows", validation))
    notes = (
        f"{_named(files, name_of)}: used as the source's {rows}, because of their names{override}"
        for rows, files in found
        if files
    )
    return Parts(train, test, validation, tuple(notes))


def _chosen(items: Sequence[Item], splits: Sequence[SplitName | None], part: SplitName) -> tuple[Item, ...]:
    return tuple(item for item, split in zip(items, splits, strict=True) if (split or "train") == part)


def _named(items: Sequence[Item], name_of: Callable[[Item], Path]) -> str:
    names = [name_of(item).as_posix() for item in items]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")

"""Files that make one table: their parts, and the columns that their paths add (`file`, `folder`, `site=x/`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flctl.data.files import existing, files_of, short_name
from flctl.data.splits import Parts, SplitName, arrange, split_of
from flctl.errors import DataError

__all__ = ["PATH_COLUMNS", "TableFile", "other_schema", "table_files", "unique_names"]

PATH_COLUMNS = ("file", "folder")
"""Columns of every table, for `--by`: the name of a row's file, and of the folder below the source that holds it."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table. `relative` is its path below the source; `part` is the part of its rows."""

    path: Path
    relative: Path
    part: SplitName = "train"

    @property
    def keys(self) -> dict[str, str]:
        """Columns that folders named `key=value` add, as Hive and Spark write them."""
        pairs = (folder.partition("=") for folder in self.relative.parts[:-1])
        return {key: value for key, sign, value in pairs if sign and key}

    @property
    def folder(self) -> str:
        """The outermost folder below the source, or the folder of a file that is named alone."""
        return self.relative.parts[0] if len(self.relative.parts) > 1 else self.path.resolve().parent.name


def table_files(
    sources: Sequence[str], tests: Sequence[str], splits: Literal["auto", "none"], extensions: tuple[str, ...]
) -> Parts[TableFile]:
    """The files of all sources, and those that `--test` names, by part.

    Raises DataError for a source without files, and for a file that is named twice.
    """
    found = [file for source in sources for file in _files_below(source, extensions)]
    held_out = [file for source in tests for file in _files_below(source, extensions)]
    _refuse_twice([*found, *held_out])
    if splits == "none":
        parts: Parts[TableFile] = Parts(tuple(found), tuple(held_out))
    elif tests:
        parts = _beside_tests(found, held_out)
    else:
        override = "; --splits none reads all files as one table"
        parts = arrange(found, lambda file: file.relative, override)
    test = tuple(TableFile(file.path, file.relative, "test") for file in parts.test)
    validation = tuple(TableFile(file.path, file.relative, "validation") for file in parts.validation)
    return Parts(parts.train, test, validation, parts.notes)


def _beside_tests(found: Sequence[TableFile], tests: Sequence[TableFile]) -> Parts[TableFile]:
    """Files beside those of `--test`: validation rows by their names, all others for training."""
    validation = [file for file in found if split_of(file.relative) == "validation"]
    train = [file for file in found if file not in validation]
    if not validation or not train:
        return Parts(tuple(found), tuple(tests))
    named = ", ".join(file.relative.as_posix() for file in validation[:3])
    more = f" and {len(validation) - 3:,} more" if len(validation) > 3 else ""
    note = f"{named}{more}: used as the source's validation rows, because of their names; --splits none reads all files"
    return Parts(tuple(train), tuple(tests), tuple(validation), (f"{note} as one table",))


def other_schema(message: str) -> DataError:
    """Returns the error for a file of a table whose columns are not those of the first file."""
    return DataError(message, hint="The files of a folder or glob must have the same schema; select fewer files.")


def _files_below(source: str, extensions: tuple[str, ...]) -> list[TableFile]:
    root = Path(source)
    paths = files_of(source, extensions)
    if root.is_dir():
        return [TableFile(path, path.relative_to(root)) for path in paths]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [TableFile(existing(str(path)), path.relative_to(common)) for path in paths]


def _refuse_twice(files: Sequence[TableFile]) -> None:
    seen: set[Path] = set()
    for file in files:
        path = file.path.resolve()
        if path in seen:
            raise DataError(f"{file.relative.as_posix()} is named twice", hint="Name each file once.")
        seen.add(path)


def unique_names(files: Sequence[TableFile]) -> list[str]:
    """A name for each file: its own without extensions, or its path below the source if two share a name."""
    names = [short_name(file.path.name) for file in files]
    count = Counter(names)
    return [name if count[name] == 1 else file.relative.as_posix() for name, file in zip(names, files, strict=True)]

"""CIFAR's binary version: one or two label bytes and 3,072 pixels a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader, Split
from flctl.data.files import existing, require_memory, short_name
from flctl.data.options import Columns
from flctl.data.schema import refuse_other_groups
from flctl.errors import DataError, IntegrityError

__all__ = ["CifarReader"]

PIXELS = 3 * 32 * 32
_TRAIN = re.compile(r"(data_batch_\d+|train)\.bin", re.IGNORECASE)
_TEST = re.compile(r"(test_batch|test)\.bin", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _CifarForm:
    """CIFAR-10 has one label byte; CIFAR-100 a coarse and a fine one."""

    labels: tuple[str, ...]
    classes: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def record(self) -> int:
        return len(self.labels) + PIXELS


_TEN = _CifarForm(("fine",), (10,), ("batches.meta.txt",))
_HUNDRED = _CifarForm(("coarse", "fine"), (20, 100), ("coarse_label_names.txt", "fine_label_names.txt"))


class CifarReader(DatasetReader):
    """CIFAR-10 and CIFAR-100, binary version: the folder as it comes, or one .bin file (Krizhevsky 2009)."""

    name = "cifar"

    class Config(Options):
        """`label`: which label of CIFAR-100 to learn, fine (100 classes) or coarse (20).

        `by` may name the group columns of CIFAR-100, `coarse` and `fine`.
        """

        label: Literal["fine", "coarse"] = "fine"
        by: Columns = ()

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is such a folder, or a .bin file."""
        path = Path(source)
        if path.is_dir():
            return any(_TRAIN.fullmatch(p.name) for p in path.iterdir())
        return path.name.lower().endswith(".bin")

    def read(self, source: str, seed: int) -> Dataset:
        """x uint8 [n, 3, 32, 32], y int64 codes [n]; the folder's test file is the test split."""
        path = existing(source)
        train, test = (_files(path, _TRAIN), _files(path, _TEST)) if path.is_dir() else ([path], [])
        form = _form(train[0])
        x, labels = _read_all(train, form)
        column = self._column(form)
        groups = dict(zip(form.labels, labels.T, strict=True)) if form is _HUNDRED else {}
        refuse_other_groups(self.config.by, tuple(groups), "CIFAR-10" if form is _TEN else "CIFAR-100")
        return Dataset(
            short_name(source),
            "classification",
            x,
            labels[:, column].astype(np.int64),
            _class_names(train[0].parent, form, column),
            groups={name: codes.astype(np.str_) for name, codes in groups.items()},
            test=_split(test, form, column),
        )

    def _column(self, form: _CifarForm) -> int:
        if self.config.label not in form.labels:
            raise DataError("CIFAR-10 has no coarse labels", hint="Leave --label out.")
        return form.labels.index(self.config.label)


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)]
    return sorted(found, key=lambda p: (len(p.name), p.name))


def _form(path: Path) -> _CifarForm:
    """Returns the format of a file, from its length and its first labels. Raises IntegrityError for any other file."""
    length = path.stat().st_size
    fitting = [form for form in (_TEN, _HUNDRED) if length and length % form.record == 0]
    if not fitting:
        raise IntegrityError(
            f"{path.name} has {length:,} bytes, which is not a multiple of {_TEN.record} or {_HUNDRED.record} "
            "(CIFAR-10 or -100)",
            hint="The file may be truncated: fetch it again.",
        )
    # Only one length in nine million fits both; then the folder's or the file's name decides.
    by_name = _HUNDRED if path.name.lower() in ("train.bin", "test.bin") else _TEN
    return fitting[0] if len(fitting) == 1 else by_name


def _read_all(paths: Sequence[Path], form: _CifarForm) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pixels uint8 [n, 3, 32, 32] and labels uint8 [n, k] of all files in order."""
    counts = [_records(path, form) for path in paths]
    require_memory(sum(counts) * form.record, paths[0].name)
    x = np.empty((sum(counts), 3, 32, 32), np.uint8)
    labels = np.empty((len(x), len(form.labels)), np.uint8)
    start = 0
    for path, count in zip(paths, counts, strict=True):
        table = np.memmap(path, np.uint8, "r").reshape(count, form.record)
        labels[start : start + count] = table[:, : len(form.labels)]
        x[start : start + count] = table[:, len(form.labels) :].reshape(count, 3, 32, 32)
        _refuse_labels(labels[start : start + count], form, path.name)
        start += count
    return x, labels


def _records(path: Path, form: _CifarForm) -> int:
    count, rest = divmod(path.stat().st_size, form.record)
    if rest or not count:
        raise IntegrityError(
            f"{path.name} has {path.stat().st_size:,} bytes, which is not a multiple of {form.record}",
            hint="Fetch it again.",
        )
    return count


def _refuse_labels(labels: npt.NDArray[np.uint8], form: _CifarForm, name: str) -> None:
    for column, classes in enumerate(form.classes):
        if int(labels[:, column].max()) >= classes:
            row = int(np.argmax(labels[:, column] >= classes))
            raise IntegrityError(
                f"{name}, record {row}: label {labels[row, column]}, expected 0 to {classes - 1}",
                hint="Use the binary version of CIFAR.",
            )


def _split(paths: Sequence[Path], form: _CifarForm, column: int) -> Split | None:
    if not paths:
        return None
    x, labels = _read_all(paths, form)
    return Split(x, labels[:, column].astype(np.int64))


def _class_names(folder: Path, form: _CifarForm, column: int) -> tuple[str, ...]:
    count, path = form.classes[column], folder / form.names[column]
    lines: list[Any] = path.read_text(errors="replace").split("\n") if path.is_file() else []
    names = tuple(line.strip() for line in lines if line.strip())
    return names if len(names) == count else tuple(str(code) for code in range(count))

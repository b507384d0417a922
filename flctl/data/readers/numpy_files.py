"""NumPy's own files: `.npz` with named arrays, and one memory-mapped `.npy` table."""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader, Examples, Split
from flctl.data.examples import Layout, as_examples, same_count, to_float32
from flctl.data.files import DEFLATE_RATIO, existing_file, require_memory, short_name
from flctl.data.npy import NpyHeader, read_header, read_values
from flctl.data.options import Column, Columns, Task
from flctl.data.precision import column_offsets, offsets_of, with_offsets
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.targets import Target, encode
from flctl.errors import ConfigError, DataError, IntegrityError, counted, suggest
from flctl.types import FloatArray

__all__ = ["NpyReader", "NpzReader"]


PAIRS = (("x", "y"), ("x_train", "y_train"), ("X", "y"), ("X_train", "y_train"), ("data", "target"),
         ("data", "labels"), ("images", "labels"), ("train_images", "train_labels"))  # fmt: skip
"""Names that x and y go by, in the order they are looked for; a test part goes by the same with `test`."""
SLICE = 1 << 22
VALIDATION = ("val", "valid", "validation", "dev")
CLASS_NAMES = ("class_names", "classes", "target_names", "label_names")


class NpzReader(DatasetReader):
    """.npz archives with an array of examples and one of targets, and test and validation parts, if any (NEP 1)."""

    name = "npz"
    extensions = (".npz",)

    class Config(Options):
        """`x`, `y`: the arrays' names (default: the usual pairs are tried). `by`: arrays [n] to keep as groups.

        `layout`: how images lie (auto: channels last where the last axis is 1 or 3; nchw, nhwc; keep: no image).
        `task`: what y means; `auto` looks at its values.
        """

        x: str | None = None
        y: str | None = None
        by: Columns = ()
        layout: Layout = "auto"
        task: Task = "auto"

    def read(self, source: str, seed: int) -> Dataset:
        """x uint8 or float32 [n, ...], images channels first; y codes or numbers [n]; only named arrays are read."""
        path = existing_file(source)
        with _archive_opened(path) as archive:
            members = _Members(archive, path.name)
            x_name, y_name = _pair(members.names, self.config.x, self.config.y, path.name)
            raw = members.read(x_name)
            offsets = column_offsets(raw)
            train = self._examples(members, raw, y_name, x_name, offsets)
            del raw
            held, notes = self._held_out(members, x_name, y_name, train, offsets)
            groups = {name: members.group(name, len(train.y)) for name in self.config.by}
            target = self._target(members, y_name, (train, *held))
        bounds = np.cumsum([len(part.y) for part in (train, *held)])
        y, *others = np.split(target.y, bounds[:-1])
        parts = [Split(part.x, codes) for part, codes in zip(held, others, strict=True)]
        data = Dataset(short_name(source), target.task, train.x, y, target.classes, groups=groups, notes=notes)
        data = replace(data, test=next(iter(parts), None), validation=parts[1] if len(parts) > 1 else None)
        return with_offsets(data, offsets)

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The array of examples; the archive need not have targets."""
        path = existing_file(source)
        with _archive_opened(path) as archive:
            members = _Members(archive, path.name)
            usual = (name for name, _ in PAIRS if name in members.names)
            name = self.config.x or next(usual, "x")
            return Examples(as_examples(members.read(name), name, self.config.layout, offsets_of(fitted)))

    def _examples(
        self,
        members: _Members,
        values: npt.NDArray[Any],
        y_name: str,
        x_name: str,
        offsets: FloatArray | None,
    ) -> Split:
        x = as_examples(values, x_name, self.config.layout, offsets)
        y = _flat(members.read(y_name), y_name)
        same_count(len(x), len(y), members.where)
        return Split(x, y)

    def _held_out(
        self, members: _Members, x_name: str, y_name: str, train: Split, offsets: FloatArray | None
    ) -> tuple[list[Split], tuple[str, ...]]:
        """The test and validation part, with a note on validation rows. Without test rows they are the test part."""
        found = (
            _pair_of_part(members.names, x_name, y_name, ("test",)),
            _pair_of_part(members.names, x_name, y_name, VALIDATION),
        )
        pairs = [pair for pair in found if pair]
        use = "used as the source's validation rows" if found[0] else "validation rows, used as the source's test rows"
        notes = (f"{found[1][0]}: {use}",) if found[1] else ()
        parts = [self._examples(members, members.read(x), y, x, offsets) for x, y in pairs]
        for part, (name, _) in zip(parts, pairs, strict=True):
            if part.x.shape[1:] != train.x.shape[1:] or part.x.dtype != train.x.dtype:
                raise DataError(
                    f"{members.where}: {name} is {part.x.dtype} {part.x.shape[1:]} a row and {x_name} "
                    f"{train.x.dtype} {train.x.shape[1:]}"
                )
        return parts, notes

    def _target(self, members: _Members, y_name: str, parts: Sequence[Split]) -> Target:
        values = np.concatenate([part.y for part in parts])
        # Whole numbers beside pictures are labels, however many there are.
        pictures = parts[0].x.ndim == 4 and values.dtype.kind in "iu" and self.config.task == "auto"
        target = encode(values, "classification" if pictures else self.config.task, y_name)
        return _renamed(target, values, members)


class NpyReader(DatasetReader):
    """A .npy table [n, columns] of numbers, memory-mapped; `--target INDEX` says which column is y (NEP 1)."""

    name = "npy"
    extensions = (".npy",)

    class Config(Options):
        """`target`: the 0-based index of the target column, negative from the end. `task`: what it means."""

        target: Column | None = None
        task: Task = "auto"

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, columns - 1], y codes or numbers [n]."""
        path = existing_file(source)
        header, table = _mapped_table(path)
        index = self._index(header, path.name)
        require_memory(4 * header.shape[0] * header.shape[1], path.name)
        offsets = column_offsets(table)
        x = _without(table, index, path.name, offsets)
        target = encode(np.array(table[:, index]), self.config.task, f"column {index}")
        data = Dataset(short_name(source), target.task, x, target.y, target.classes)
        return with_offsets(data, None if offsets is None else np.delete(offsets, index))

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The table, memory-mapped: with the target's column, which is left out, or without it. For a model of
        pictures, the pictures."""
        path = existing_file(source)
        if len(fitted.shape) == 3:
            return Examples(as_examples(_mapped(path)[1], path.name))
        header, table = _mapped_table(path)
        if header.shape[1:] != fitted.shape and header.shape[1] == fitted.shape[0] + 1:
            table = np.delete(table, self._index(header, path.name), axis=1)
        offsets = offsets_of(fitted)
        return Examples(table if offsets is None else to_float32(table, path.name, offsets=offsets))

    def _index(self, header: NpyHeader, where: str) -> int:
        columns, word = header.shape[1], self.config.target
        if word is None:
            raise ConfigError(
                f"{where}: which of its {counted(columns, 'column')} is to be predicted?", hint="--target INDEX"
            )
        if not word.removeprefix("-").isdecimal() or not -columns <= int(word) < columns:
            raise DataError(f"{where} has no column '{word}' (--target)", hint=f"It has 0 to {columns - 1}.")
        return int(word) % columns


def _mapped_table(path: Path) -> tuple[NpyHeader, npt.NDArray[Any]]:
    """The header and the memory-mapped table [n, columns]. Raises DataError for any other array."""
    header, table = _mapped(path)
    if len(header.shape) != 2 or header.shape[1] < 2 or header.dtype.kind not in "biuf":
        raise DataError(
            f"{path.name} holds {header.dtype} of shape {header.shape}; expected numbers [rows, 2 or more columns]",
            hint="Save examples of another shape in a .npz, as x and y.",
        )
    return header, table


def _mapped(path: Path) -> tuple[NpyHeader, npt.NDArray[Any]]:
    """The header and the memory-mapped array."""
    with path.open("rb") as stream:
        header = read_header(stream, path.stat().st_size, path.name)
    order = "F" if header.fortran_order else "C"
    return header, np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]


def _without(
    table: npt.NDArray[Any], index: int, name: str, offsets: FloatArray | None = None
) -> npt.NDArray[np.float32]:
    """The table less one column, float32 less `offsets`, copied a slice at a time. NaN is a DataError."""
    rows, columns = table.shape
    out = np.empty((rows, columns - 1), np.float32)
    step = max(1, SLICE // columns)
    for start in range(0, rows, step):
        part = to_float32(table[start : start + step], name, start, offsets)
        out[start : start + step, :index] = part[:, :index]
        out[start : start + step, index:] = part[:, index + 1 :]
    return out


@contextmanager
def _archive_opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive. Raises IntegrityError for what is no sound zip, also while members are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        # A corrupt directory makes zipfile seek to places that cannot be.
        if error.errno != errno.EINVAL:
            raise
        raise _unsound(path, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _unsound(path, error) from error


def _unsound(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path.name} is not a valid .npz: {error}", hint="Fetch or save it again.")


class _Members:
    """The arrays of an archive, each checked against its entry before it is read."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self.where = where
        self._archive = archive
        self.names = tuple(name.removesuffix(".npy") for name in archive.namelist())

    def read(self, name: str) -> npt.NDArray[Any]:
        """Returns one array. Raises DataError for an unknown name, IntegrityError for an impossible size."""
        if name not in self.names:
            known = ", ".join(self.names[:12])
            raise DataError(f"{self.where} has no array '{name}'", hint=suggest(name, self.names) or f"It has {known}.")
        entry = self._archive.infolist()[self.names.index(name)]
        where = f"{self.where}, array '{name}'"
        if entry.file_size > max(1, entry.compress_size) * DEFLATE_RATIO:
            raise IntegrityError(f"{where} declares {entry.file_size:,} bytes from {entry.compress_size:,} packed ones")
        require_memory(entry.file_size, where)
        with self._archive.open(entry) as stream:
            header = read_header(stream, entry.file_size, where)
            return read_values(stream, header, where)

    def group(self, name: str, rows: int) -> npt.NDArray[Any]:
        """An array [rows] as strings, for `--by`."""
        values = self.read(name)
        if values.shape != (rows,) or values.dtype.kind not in "biufU":
            raise DataError(f"--by {name}: {values.dtype} of shape {values.shape}; expected {rows:,} numbers or words")
        return values.astype(np.str_)


def _pair(names: tuple[str, ...], x: str | None, y: str | None, where: str) -> tuple[str, str]:
    for x_name, y_name in PAIRS:
        if (x or x_name in names) and (y or y_name in names):
            return x or x_name, y or y_name
    raise DataError(
        f"{where} has the arrays {', '.join(names[:12])}, and none of the usual names for examples and targets",
        hint="Name them: --x NAME --y NAME.",
    )


def _pair_of_part(names: tuple[str, ...], x: str, y: str, words: Sequence[str]) -> tuple[str, str] | None:
    """The names of the arrays of a part that goes by one of several words; None unless both arrays are there."""
    found = [next(filter(None, (_named_part(name, names, word) for word in words)), None) for name in (x, y)]
    return (found[0], found[1]) if found[0] and found[1] else None


def _named_part(name: str, names: tuple[str, ...], part: str) -> str | None:
    """The name of an array's test or validation part: `train` replaced by the part's word, or the word added."""
    candidates = (name.replace("train", part),) if "train" in name else (f"{name}_{part}", f"{part}_{name}")
    return next((candidate for candidate in candidates if candidate in names), None)


def _flat(y: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Targets [n], [n, 1] or one-hot [n, classes] as [n]. Raises DataError for any other shape."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf" and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
        return np.asarray(y.argmax(axis=1))
    if y.ndim != 1:
        raise DataError(f"{name} has shape {y.shape}; expected one target a row, or one-hot rows of 0 and 1")
    return y


def _renamed(target: Target, values: npt.NDArray[Any], members: _Members) -> Target:
    """Labels 0..K-1 called by the archive's own class names, where it has K of them."""
    if target.task == "regression" or values.dtype.kind not in "iu":
        return target
    for name in CLASS_NAMES:
        if name in members.names:
            words = members.read(name)
            in_range = values.min() >= 0 and values.max() < len(words) if words.ndim == 1 else False
            if words.dtype.kind == "U" and in_range:
                y = values.astype(np.int64)
                return Target(target.task, y, tuple(str(word) for word in words))
    return target

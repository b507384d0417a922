"""The read side of the partition store: packed columns, memory-mapped, any client in microseconds.

A store is untrusted until it was opened: paths, headers, sizes and bounds are checked first (`verify_digests`
reads every byte as well). Nothing here keeps an object per client, and reading gives memory back.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.own_directories import directory_kind
from flctl.errors import DataError, IncompatibleError, IntegrityError, command_line, counted
from flctl.partition.manifest import MANIFEST, MAX_BYTES, Manifest, digest_of, parse
from flctl.partition.npy import StoredColumn, file_digest, open_column
from flctl.partition.preprocess import Standardiser
from flctl.partition.view import PartitionView
from flctl.types import Batch, IntArray

__all__ = ["Manifest", "Partition", "manifest_bytes"]

CHUNK_BYTES = 8 << 20
SURROGATES = 0xD800


class Partition(PartitionView):
    """The rows of a partition by client, read from disk. Made by `Partition.open`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from flctl.testing.trial import Trial
    >>> folder = tempfile.TemporaryDirectory()
    >>> written = Trial(Path(folder.name)).partition.path  # nine clients; a fifth of each one's rows is for testing
    >>> partition = Partition.open(written)
    >>> partition.clients, partition.counts[:2].tolist()
    (9, [[6, 2], [8, 2]])
    >>> x, y = partition.train(0)
    >>> x.shape, y.shape
    ((6, 4), (6,))
    >>> folder.cleanup()

    x is float32 as models take it (int64 codes [n, window] for next character); y is int64 codes, float32
    standardised targets, or int64 codes with -1 padding.
    """

    here = True

    def __init__(self, path: Path, manifest: Manifest, digest: str, columns: dict[str, StoredColumn]) -> None:
        super().__init__(path, manifest, digest, columns["client_ids"].array)
        self._columns = columns
        self._x, self._y = columns["x"], columns["y"]
        self._x_dtype = np.dtype(manifest.columns["x"].dtype)
        self._bounds = columns["bounds"].array
        self._standardiser = Standardiser(manifest.preprocess, self.shape)

    @classmethod
    def open(cls, path: Path | str) -> Partition:
        """Opens a store after checking its manifest, paths, headers, sizes and bounds, but not its digests.

        Raises DataError where `path` is no partition, IntegrityError where it is damaged, IncompatibleError
        where another version's format stands in it.
        """
        path = Path(path)
        data = manifest_bytes(path)
        manifest = _own(data, path)
        columns = {name: open_column(path, column) for name, column in manifest.columns.items()}
        _check_bounds(manifest, columns["bounds"].array)
        _check_ids(columns["client_ids"].array)
        if manifest.has_validation:
            _check_validation(manifest, columns["validation_bounds"].array)
        return cls(path, manifest, digest_of(data), columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Partition.open, (self.path,))

    def verify_digests(self) -> None:
        wrong = [
            column.file
            for column in self.manifest.columns.values()
            if file_digest(self.path / column.file) != column.sha256
        ]
        if wrong:
            raise IntegrityError(
                f"partition {self.path.name}: {', '.join(wrong)} changed since it was written (SHA-256 differs)",
                hint="Partition the data again, or copy the directory again from its origin.",
            )

    @property
    def counts(self) -> IntArray:
        return np.diff(self._bounds, axis=1)

    def train_sizes(self, clients: IntArray) -> IntArray:
        bounds = self._bounds[clients]
        sizes: IntArray = bounds[:, 1] - bounds[:, 0]
        return sizes

    @property
    def bounds(self) -> IntArray:
        return self._bounds

    def column(self, name: str) -> npt.NDArray[Any]:
        return self._sound(name, self._columns[name].array)

    def read_raw(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        return self._sound(name, self._columns[name].read(start, stop))

    def train(self, index: int) -> Batch:
        return self._slice(self._bounds[self._checked(index), :2])

    def train_labels(self, index: int) -> npt.NDArray[Any]:
        start, stop = self._bounds[self._checked(index), :2].tolist()
        return self.read_raw("y", start, stop)

    def empty(self) -> Batch:
        return self._converted(self._x.read(0, 0), self._y.read(0, 0))

    def train_starts(self, clients: IntArray) -> IntArray:
        starts: IntArray = self._bounds[clients, 0]
        return starts

    def take(self, rows: IntArray, into: Batch) -> None:
        x = self._sound("x", self._x.take(rows, into[0] if self._x_dtype == into[0].dtype else None))
        y = self._sound("y", self._y.take(rows))
        if self.task != "next-character":
            self._standardiser.x_into(x, into[0])
        elif x is not into[0]:
            into[0][:] = x
        into[1][:] = self._standardiser.target(y) if self.task == "regression" else y

    def test(self, index: int) -> Batch:
        return self._slice(self._bounds[self._checked(index), 1:])

    def central_test(self) -> Batch:
        if self.manifest.central_test == "clients":
            return self.test_bounds()[:2]
        x, y = self._columns["test_x"], self._columns["test_y"]
        return self._gather(x, y, np.arange(y.rows))

    def test_bounds(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], IntArray]:
        starts, sizes = self._bounds[:, 1], self.counts[:, 1]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return (*self._gather(self._x, self._y, rows), offsets)

    @property
    def validation_counts(self) -> IntArray:
        if not self.manifest.has_validation:
            return np.zeros(self.clients, np.int64)
        return np.diff(self._columns["validation_bounds"].array)

    def validation(self, index: int) -> Batch:
        index = self._checked(index)
        if not self.manifest.has_validation:
            return self.empty()
        start, stop = self._columns["validation_bounds"].array[index : index + 2].tolist()
        return self._validation(start, stop)

    def central_validation(self) -> Batch:
        held, own = self.manifest.rows.validation, self.manifest.own_validation
        return self._validation(held if own else 0, held + own)

    def validation_bounds(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], IntArray]:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.validation_counts)])
        return (*self._validation(0, int(offsets[-1])), offsets)

    def _validation(self, start: int, stop: int) -> Batch:
        if start == stop:
            return self.empty()
        return self._gather(self._columns["validation_x"], self._columns["validation_y"], np.arange(start, stop))

    def _slice(self, bounds: IntArray) -> Batch:
        start, stop = bounds.tolist()
        return self._converted(self._x.read(start, stop), self._y.read(start, stop))

    def _gather(self, x: StoredColumn, y: StoredColumn, rows: IntArray) -> Batch:
        """Rows by ascending number. The column is read through in runs, so that no more than a run of it stands
        beside the result."""
        result = tuple(
            np.empty((len(rows), *part.shape[1:]), part.dtype) for part in self._converted(x.read(0, 0), y.read(0, 0))
        )
        step = max(1, CHUNK_BYTES // max(1, result[0].itemsize * math.prod(result[0].shape[1:])))
        for start in range(0, x.rows, step):
            stop = min(start + step, x.rows)
            first, last = np.searchsorted(rows, [start, stop]).tolist()
            if first < last:
                wanted = rows[first:last] - start
                part = self._converted(x.read(start, stop)[wanted], y.read(start, stop)[wanted])
                result[0][first:last], result[1][first:last] = part
        return result[0], result[1]

    def _sound(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`values` of the column `name`. A code beyond the classes would count for another client, or fail far from
        its cause, in training."""
        text = self.task == "next-character"
        if name in ("y", "test_y", "validation_y") and self.task != "regression":
            self._check_codes(name, values, least=-1 if text else 0)
        elif text and name in ("x", "test_x", "validation_x"):
            self._check_codes(name, values, least=0)
        return values

    def _check_codes(self, name: str, codes: npt.NDArray[Any], least: int) -> None:
        classes = len(self.classes)
        if codes.size and not (int(codes.min()) >= least and int(codes.max()) < classes):
            raise IntegrityError(
                f"partition {self.path.name}: {name} has codes outside the {counted(classes, 'class', 'classes')}",
                hint="The partition is damaged: partition the data again.",
            )

    def _converted(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Batch:
        """Raw rows as models take them."""
        x, y = self._sound("x", x), self._sound("y", y)
        if self.task == "next-character":
            return x.astype(np.int64), y.astype(np.int64)
        converted = self._standardiser.target(y) if self.task == "regression" else y.astype(np.int64, copy=False)
        return self._standardiser.x(x), converted


def _own(data: bytes, path: Path) -> Manifest:
    """Parses the manifest of a partition. Raises IncompatibleError for that of a federated data directory."""
    try:
        return parse(data)
    except IntegrityError:
        if b'"format": "flctl-federated/' not in data:
            raise
    raise IncompatibleError(
        f"{path} is a federated data directory: its rows stay with their owners, and this command needs them here",
        hint="`flctl train` trains and evaluates at the sites; `flctl runs show RUN` lists what was measured.",
    )


def manifest_bytes(path: Path) -> bytes:
    """Reads manifest.json of a directory. Raises DataError if the directory has no manifest."""
    file = path / MANIFEST
    if not path.is_dir() or file.is_symlink() or not file.is_file():
        if directory_kind(path) == "run":
            resume = command_line("flctl", "train", "--resume", path)
            raise DataError(
                f"{path} is a run, not a partition", hint=f"Name the partition of its data. To continue it: {resume}"
            )
        what = "holds no manifest.json" if path.is_dir() else "is not a directory"
        hint = "Create one: flctl partition SOURCE --out DIR"
        raise DataError(f"{path} is not a partition: it {what}", hint=hint)
    with file.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


def _check_bounds(manifest: Manifest, bounds: IntArray) -> None:
    start, train_end, end = bounds[:, 0], bounds[:, 1], bounds[:, 2]
    total = manifest.rows.train + manifest.rows.test
    sound = start[0] == 0 and end[-1] == total and bool((start[1:] == end[:-1]).all())
    sound = sound and bool((start <= train_end).all()) and bool((train_end <= end).all())
    if not sound or int((train_end - start).sum()) != manifest.rows.train:
        raise IntegrityError(
            "the bounds of the partition are not increasing within its rows, or do not add up to its counts",
            hint="The partition is damaged: partition the data again.",
        )


def _check_validation(manifest: Manifest, bounds: IntArray) -> None:
    if bounds[0] != 0 or bounds[-1] != manifest.rows.validation or bool((np.diff(bounds) < 0).any()):
        raise IntegrityError(
            "the bounds of the validation rows are not increasing, or do not add up to their count",
            hint="The partition is damaged: partition the data again.",
        )


def _check_ids(client_ids: npt.NDArray[np.str_]) -> None:
    letters = client_ids.view("<u4")
    # Surrogates are no characters: nothing could print them, or write them as UTF-8.
    if int(letters.max(initial=0)) > sys.maxunicode or bool((letters >> 11 == SURROGATES >> 11).any()):
        raise IntegrityError("client_ids of the partition are not text", hint="Partition the data again.")

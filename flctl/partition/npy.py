"""`.npy` columns: written as a stream with their digest, and memory-mapped after their header was checked.

A header is matched against the one form that this project writes and is never evaluated; what it declares must
agree with the manifest and with the file's length before a byte is mapped.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import re
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from flctl.errors import IntegrityError, counted
from flctl.partition.manifest import Column
from flctl.types import IntArray

__all__ = ["ColumnWriter", "StoredColumn", "file_digest", "open_column", "write_column"]

MAGIC = b"\x93NUMPY\x01\x00"
ALIGNMENT = 64
MAX_HEADER = 4096
KEPT_BYTES = 256 << 20
"""Bytes of a larger column that `take` touches before it releases the mapped pages."""
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-zA-Z]\d{1,4})', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,18}, ){0,8}\d{0,18},?)\), \} *\n"
)
_DTYPE = re.compile(r"\|u1|<i4|<i8|<f4|<f8|<U[1-9]\d{0,3}")


class ColumnWriter:
    """Writes rows [n, *shape] one chunk after another; `column` says what was written. Use it as a context."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, rows: int, shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shape = (rows, *shape)
        self._path = path
        self._written = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        self._file: BinaryIO = self._path.open("xb")
        self._put(_header(self._dtype, self._shape))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, chunk: npt.NDArray[Any]) -> None:
        """Appends the rows of `chunk`."""
        packed = np.ascontiguousarray(chunk, dtype=self._dtype)
        self._written += len(packed)
        self._put(packed.reshape(-1).view(np.uint8).data)

    @property
    def column(self) -> Column:
        """The entry for the manifest."""
        if self._written != self._shape[0]:
            raise ValueError(f"{self._path.name}: {counted(self._written, 'row')} written, {self._shape[0]} announced")
        return Column(self._path.name, self._dtype.str, self._shape, self._digest.hexdigest())

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)


def write_column(path: Path, array: npt.NDArray[Any]) -> Column:
    """Writes a whole array and returns its manifest entry."""
    with ColumnWriter(path, array.dtype, len(array), array.shape[1:]) as writer:
        writer.write(array)
    return writer.column


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header as NumPy writes it, so that data starts at a multiple of 64 bytes."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = -(-(len(MAGIC) + 2 + len(text) + 1) // ALIGNMENT) * ALIGNMENT - len(MAGIC) - 2
    return MAGIC + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


class StoredColumn:
    """A column that was checked against the manifest: `read` copies a run of rows, `array` maps all of them.

    `read` does not go through the map: pages of a map that were touched count as this process's memory, so that
    it would seem to grow with what it has read.
    """

    def __init__(self, path: Path, file: BinaryIO, column: Column, offset: int) -> None:
        self.rows = column.shape[0]
        self._path, self._file, self._offset = path, file, offset
        self._dtype, self._shape = np.dtype(column.dtype), column.shape
        self._taken = 0
        self._row_bytes = self._dtype.itemsize * math.prod(column.shape[1:])

    @cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """The whole column, memory-mapped and read-only."""
        return np.ndarray(self._shape, self._dtype, buffer=self._map, offset=self._offset)

    def take(self, rows: IntArray, into: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A copy of the rows with these numbers, which must lie within the column; `into` an array of its dtype where
        one is given.

        Goes through the map, which beats a read for each of many short runs, and gives the pages back now and then.
        """
        result = np.take(self.array, rows, axis=0, out=into, mode="raise" if into is None else "clip")
        self._taken += max(result.nbytes, len(rows) * mmap.PAGESIZE)
        if self.rows * self._row_bytes > KEPT_BYTES < self._taken and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._taken = 0
        return result

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the rows `start:stop`, which must lie within the column."""
        if not hasattr(os, "preadv"):
            return self.array[start:stop].copy()
        result = np.empty((stop - start, *self._shape[1:]), self._dtype)
        offset, left = self._offset + start * self._row_bytes, result.reshape(-1).view(np.uint8).data
        while left:
            got = os.preadv(self._file.fileno(), [left], offset)
            if got == 0:
                raise _damaged(self._path, "became shorter while it was open")
            offset, left = offset + got, left[got:]
        return result


def open_column(directory: Path, column: Column) -> StoredColumn:
    """Opens a column. Raises IntegrityError where the file is missing, a link, truncated, or not what it says."""
    path = directory / column.file
    if path.is_symlink() or not path.is_file():
        raise _damaged(path, "is missing, or is not a plain file")
    file = path.open("rb", buffering=0)
    try:
        return StoredColumn(path, file, column, _check_header(path, file, column))
    except BaseException:
        file.close()
        raise


def _check_header(path: Path, file: BinaryIO, column: Column) -> int:
    """The offset of the data, after the declared size was compared with the manifest and the file's length."""
    start = file.read(len(MAGIC) + 2)
    if len(start) < len(MAGIC) + 2 or not start.startswith(MAGIC):
        raise _damaged(path, "does not start like a version 1.0 .npy file")
    length = int.from_bytes(start[-2:], "little")
    if length > MAX_HEADER:
        raise _damaged(path, f"declares a header of {length} bytes; at most {MAX_HEADER} are read")
    match = _HEADER.fullmatch(file.read(length))
    if match is None or not _DTYPE.fullmatch(match[1].decode()):
        raise _damaged(path, "has a header that a partition's column does not have")
    dtype, shape = match[1].decode(), _shape(match[2])
    if (dtype, shape) != (column.dtype, column.shape):
        raise _damaged(path, f"declares {dtype} {shape}; the manifest says {column.dtype} {column.shape}")
    offset = len(start) + length
    _check_length(path, file, offset + math.prod(shape) * np.dtype(dtype).itemsize)
    return offset


def _shape(text: bytes) -> tuple[int, ...]:
    return tuple(int(size) for size in text.decode().split(",") if size.strip())


def _check_length(path: Path, file: BinaryIO, expected: int) -> None:
    found = file.seek(0, io.SEEK_END)
    if found != expected:
        raise _damaged(path, f"has {found:,} bytes; its header declares {expected:,}")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{path.name} of partition {path.parent.name} {reason}",
        hint="The partition is damaged: partition the data again, or copy it again from its origin.",
    )

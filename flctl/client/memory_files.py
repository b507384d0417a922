"""The files of a client memory: fixed-size records, and an entry (round, CRC-32) for each, read and written at
given offsets by several processes at once.

memory.json says what the two others hold. records.bin has a record for each slot and client, [3, clients, L]
float32, the layout's vectors one after the other; it is sparse: what was never written takes no space (where the
file system knows holes). stamps.bin has the round that was settled last (u64), then the entries, [3, clients].
Everything is little-endian.

Nothing is mapped: pages of a map that were touched count as a process's memory, and a disk that is full kills
the process that writes to a map, where a write raises an error.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.errors import IncompatibleError, IntegrityError, StorageError
from flctl.json_files import JsonFormat
from flctl.types import IntArray, Layout

__all__ = ["ENTRY", "RECORD", "SLOTS", "Dimensions", "MemoryFiles", "byte_rows"]

FORMAT = "flctl-memory/1"
MANIFEST, STAMPS, RECORDS = "memory.json", "stamps.bin", "records.bin"
MAX_MANIFEST = 1 << 20
SLOTS = 3
ENTRY = np.dtype([("round", "<u4"), ("crc", "<u4")])
"""8 bytes at a multiple of 8: within one sector of a disk, so that a power loss leaves it old or new."""
RECORD = np.dtype("<f4")
WORD = np.dtype("<u8")
"""An entry as one number, and the round that was settled last."""
NEAR = 512
"""Entries that are so close (a page) are read in one go, with what lies between them."""
MOST_VIEWS = 1024
"""Buffers that one system call takes (IOV_MAX of Linux, macOS and the BSDs)."""
POSITIONED = hasattr(os, "preadv") and hasattr(os, "pwritev")
"""True if the system reads and writes at an offset in one call; Windows seeks first."""

Entries = npt.NDArray[np.void]
ByteRows = Sequence[tuple[memoryview, int]]
_Transfer = Callable[[int, Sequence[memoryview], int], int]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Number of clients, and the vectors that each remembers (name -> length, sorted by name)."""

    clients: int
    layout: Layout

    @property
    def record_bytes(self) -> int:
        """The size of one record."""
        return RECORD.itemsize * sum(self.layout.values())

    @property
    def sizes(self) -> dict[str, int]:
        """File -> bytes."""
        slots = SLOTS * self.clients
        return {STAMPS: WORD.itemsize + slots * ENTRY.itemsize, RECORDS: slots * self.record_bytes}

    @property
    def manifest(self) -> dict[str, Any]:
        """Contents of memory.json."""
        return {"format": FORMAT, "clients": self.clients, "layout": dict(self.layout)}


class MemoryFiles:
    """The open files of one process. Numbers of clients and slots are int64 [K] and within bounds."""

    def __init__(self, directory: Path, dimensions: Dimensions) -> None:
        """Raises IntegrityError if a file is missing, too long or too short; IncompatibleError if it is for other
        clients or vectors."""
        _check_manifest(directory, dimensions)
        _restrict(directory)
        sizes = dimensions.sizes
        self._dimensions = dimensions
        self._stamps = _RecordFile(directory / STAMPS, sizes[STAMPS])
        self._records = _RecordFile(directory / RECORDS, sizes[RECORDS])

    @staticmethod
    def create(directory: Path, dimensions: Dimensions) -> None:
        """Makes `directory` with empty files, on disk when this returns. Raises ConfigError if it exists, and
        StorageError if it cannot be made."""
        with atomic.new_directory(directory) as partial:
            (partial / MANIFEST).write_text(json.dumps(dimensions.manifest, indent=1) + "\n", encoding="utf-8")
            for name, size in dimensions.sizes.items():
                with (partial / name).open("xb") as file:
                    file.truncate(size)
            _restrict(partial)

    @property
    def settled(self) -> int:
        """The round that was settled last; 0 before any was."""
        word = np.zeros(1, WORD)
        self._stamps.read([_view(word)], 0)
        return int(word[0])

    def set_settled(self, round_number: int) -> None:
        """Replaces `settled`."""
        self._stamps.write([_view(np.array([round_number], WORD))], 0)

    def entries(self, clients: IntArray) -> Entries:
        """The clients' entries, [3, K]."""
        words = np.empty((SLOTS, len(clients)), WORD)  # structured values would be copied one field at a time
        order = np.argsort(clients, kind="stable")
        ascending = clients[order]
        for start, stop in _stretches(len(clients), np.diff(ascending) > NEAR):
            first, last = int(ascending[start]), int(ascending[stop - 1])
            span = np.empty(last - first + 1, WORD)
            for slot in range(SLOTS):
                self._stamps.read([_view(span)], self._entry_offset(slot * self._dimensions.clients + first))
                words[slot, order[start:stop]] = span[ascending[start:stop] - first]
        return words.view(ENTRY)

    def set_entries(self, slots: IntArray, clients: IntArray, entries: Entries) -> None:
        """Writes one entry [K] for each slot and client. Entries of other clients are not touched, because another
        process may be writing them."""
        entry_indices = slots * self._dimensions.clients + clients
        order = np.argsort(entry_indices, kind="stable")
        entry_indices, view = entry_indices[order], _view(entries.view(WORD)[order])
        for start, stop in _stretches(len(entry_indices), np.diff(entry_indices) != 1):
            part = view[start * ENTRY.itemsize : stop * ENTRY.itemsize]
            self._stamps.write([part], self._entry_offset(int(entry_indices[start])))

    def read_records(self, slots: IntArray, clients: IntArray, into: ByteRows, rows: IntArray) -> None:
        """Fills the rows `rows` of `into` with the records, one for each slot and client."""
        self._move(self._records.read, slots, clients, into, rows)

    def write_records(self, slots: IntArray, clients: IntArray, source: ByteRows) -> None:
        """Writes row i of `source` as the record of the i-th slot and client."""
        self._move(self._records.write, slots, clients, source, np.arange(len(clients)))

    def sync(self) -> None:
        """Puts on disk what was written, by whatever process."""
        self._records.sync()
        self._stamps.sync()

    def close(self) -> None:
        """Closes the files."""
        self._records.close()
        self._stamps.close()

    def _move(
        self,
        move: Callable[[Sequence[memoryview], int], None],
        slots: IntArray,
        clients: IntArray,
        data: ByteRows,
        rows: IntArray,
    ) -> None:
        """Makes one call for each stretch of records that are adjacent both on disk and in `data`."""
        entry_indices = slots * self._dimensions.clients + clients
        size = self._dimensions.record_bytes
        offsets, firsts = (entry_indices * size).tolist(), rows.tolist()
        for start, stop in _stretches(len(rows), (np.diff(entry_indices) != 1) | (np.diff(rows) != 1)):
            move(_views(data, firsts[start], firsts[start] + stop - start), offsets[start])

    def _entry_offset(self, entry_index: int) -> int:
        return WORD.itemsize + entry_index * ENTRY.itemsize


def byte_rows(arrays: Mapping[str, npt.NDArray[Any]], layout: Layout) -> ByteRows:
    """The bytes of each contiguous [K, length] array in the layout's order, with the bytes of a row."""
    return [(_view(arrays[name]), RECORD.itemsize * length) for name, length in layout.items() if length]


def _view(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _views(data: ByteRows, first: int, last: int) -> list[memoryview]:
    """The buffers of the rows from `first` to before `last`, in the order of the records."""
    if len(data) == 1:
        view, size = data[0]
        return [view[first * size : last * size]]
    return [view[row * size : (row + 1) * size] for row in range(first, last) for view, size in data]


def _stretches(count: int, breaks: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of the stretches of `count` items; breaks[i] is True if one ends between items i and i +
    1."""
    return pairwise([0, *(np.flatnonzero(breaks) + 1).tolist(), count] if count else [])


class _RecordFile:
    """A file of known size, read and written at given offsets; each call handles all of its bytes or raises."""

    def __init__(self, path: Path, size: int) -> None:
        if path.is_symlink() or not path.is_file():
            raise _damaged(path, "is missing, or is not a plain file")
        self._path = path
        self._lock = threading.Lock()
        self._writable = os.access(path, os.W_OK)  # a finished run may lie where nothing can be written
        try:
            self._file = path.open("r+b" if self._writable else "rb", buffering=0)
        except OSError as error:
            raise self._refused("open", error) from error
        self._descriptor = self._file.fileno()
        found = os.fstat(self._descriptor).st_size
        if found != size:
            self.close()
            raise _damaged(path, f"has {found:,} bytes, expected {size:,}")

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        """Fills the buffers, one after the other, with the bytes from `offset` on. No buffer may be empty."""
        try:
            self._transfer_all(os.preadv if POSITIONED else self._seek_and_read, views, offset)
        except OSError as error:
            raise self._refused("read", error) from error

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Writes the buffers, one after the other, from `offset` on; the operating system holds them when this returns.
        No buffer may be empty."""
        try:
            self._transfer_all(os.pwritev if POSITIONED else self._seek_and_write, views, offset)
        except OSError as error:
            raise self._refused("write", error) from error

    def sync(self) -> None:
        """Puts on disk what any process wrote."""
        try:
            if self._writable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise self._refused("write", error) from error

    def close(self) -> None:
        self._file.close()

    def _transfer_all(self, transfer: _Transfer, views: Sequence[memoryview], offset: int) -> None:
        """Calls `transfer` until every byte has gone: it may take fewer buffers, and handle fewer bytes, than there
        are."""
        remaining = sum(map(len, views))
        while remaining:
            done = transfer(self._descriptor, views[:MOST_VIEWS], offset)
            if done == 0:
                raise _damaged(self._path, "became shorter while it was open")
            remaining, offset = remaining - done, offset + done
            if remaining:
                views = _without(views, done)

    def _seek_and_read(self, _: int, views: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(views[0]) or 0

    def _seek_and_write(self, _: int, views: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            self._file.seek(offset)
            return self._file.write(views[0]) or 0

    def _refused(self, verb: str, error: OSError) -> StorageError:
        hint = "Free disk space or correct the permissions, then resume: the data of the checkpoint is unchanged."
        return StorageError(f"cannot {verb} client memory {self._path}: {error.strerror or error}", hint=hint)


def _restrict(directory: Path) -> None:
    """Lets the owner alone read client memory: SCAFFOLD's c_k times the steps and the learning rate is the update that
    a client sent, which an aggregator may hide from everybody else."""
    with suppress(OSError):  # a finished run may lie where nothing can be changed
        directory.chmod(0o700)
        for name in (MANIFEST, STAMPS, RECORDS):
            (directory / name).chmod(0o600)


def _without(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """The buffers that are left after the first `done` bytes."""
    for index, view in enumerate(views):
        if done < len(view):
            return [view[done:], *views[index + 1 :]]
        done -= len(view)
    return []


def _check_manifest(directory: Path, dimensions: Dimensions) -> None:
    path = directory / MANIFEST
    if path.is_symlink():
        raise _damaged(path, "is not a plain file")
    described = JsonFormat(FORMAT, _restore(directory), MAX_MANIFEST)
    found = described.read(path, f"client memory {path}")
    for key, expected in dimensions.manifest.items():
        if key not in found:
            raise described.damaged(f"client memory {path}", f"it has no '{key}'")
        if found[key] != expected:
            hint = "It belongs to another run, or the strategy now keeps other vectors: start a new run."
            raise IncompatibleError(f"{path} has the {key} {found[key]!r:.200}, expected {expected!r:.200}", hint=hint)


def _restore(directory: Path) -> str:
    return f"Restore {directory.name}/ as it was when the checkpoint was written, or start a new run."


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"client memory {path} {reason}", hint=_restore(path.parent))

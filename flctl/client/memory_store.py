"""Client memory on disk: the vectors that clients keep between rounds, read and written for many clients at once.

A client in round r reads its newest record of a round before r and writes another. A client asked twice in a round
(a worker died), or in a round repeated after a crash, therefore reads the same record both times.

Three slots for each client suffice. `settle(c)`, after the checkpoint of round c, leaves a client at most one
record up to round c; so its OLDEST record is the one that a resume from c reads, the newest before round r is what
round r reads, and a third is free to be written.

Nothing that a kill or a power loss leaves behind can pass for a record. A slot's entry (round, CRC-32) is cleared
before its record is written and set after it: a process killed between leaves an empty slot. When the machine
loses power, writes since the last `sync` may be missing in any order, so an entry may be there without its record,
or a cleared one as it was. But each of them is either of a round after the checkpoint, and `forget_after` drops
those; or it is older than the record that the checkpoint rests on, which was on disk before the checkpoint was
made, was not written since, and is newer. (That a write touches no byte beside it is what disks promise.)
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.client.memory_files import ENTRY, RECORD, SLOTS, Dimensions, MemoryFiles, byte_rows
from flctl.errors import ConfigError, FlctlError, IncompatibleError, IntegrityError, counted
from flctl.types import IntArray, Layout

__all__ = ["MemoryStore"]

LAST_ROUND = (1 << 32) - 1
_PUT_BACK = "Restore the run's memory/ as it was when the checkpoint was written, or start a new run."
Stacked = dict[str, npt.NDArray[np.float32]]


class MemoryStore:
    """The memory of clients 0 to `clients` - 1, each with the float32 vectors of `layout`, under `directory`.

    Nothing is made before the first write, and nothing ever for an empty layout. Any number of processes may read
    and write, as long as no two handle one client at the same time; `settle`, `forget_after` and `sync` are the
    server's, between rounds.
    """

    def __init__(self, directory: Path, clients: int, layout: Layout) -> None:
        """Raises IncompatibleError for a directory of other clients or vectors, IntegrityError for a damaged one."""
        self.directory = Path(directory)
        self.clients = clients
        self.layout: Layout = dict(sorted(layout.items()))
        self._files: MemoryFiles | None = None
        self._open()

    def create(self) -> None:
        """Makes the files, unless they exist. Raises StorageError if they cannot be made."""
        if not self.layout or self._open() is not None:
            return
        try:
            MemoryFiles.create(self.directory, Dimensions(self.clients, self.layout))
        except ConfigError:
            if self._open() is None:  # else another process was faster, and made the same
                raise

    def read(self, clients: npt.ArrayLike, before: int) -> tuple[Stacked, npt.NDArray[np.bool_]]:
        """Returns name -> [K, length], each client's vectors of its newest round before `before`, and flags [K], True
        for clients with a record. Rows without a record are zeros. Raises IntegrityError for a record that is not as
        written."""
        client_indices = self._client_indices(clients)
        arrays = {name: np.zeros((len(client_indices), length), RECORD) for name, length in self.layout.items()}
        rounds = self._read_records(arrays, client_indices, before)
        return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, rounds > 0

    def write(self, clients: npt.ArrayLike, round_number: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keeps each client's vectors as of round `round_number`, name -> float32 [K, length]; what this round reads
        stays.

        With the operating system when this returns, on disk after `sync`. Raises FlctlError for vectors that are
        not laid out so, and StorageError where the disk is full; each client then has its new record or the one
        from before this round.
        """
        client_indices = self._client_indices(clients)
        if len(np.unique(client_indices)) != len(client_indices) or not 0 < round_number <= LAST_ROUND:
            raise ValueError(
                f"{counted(len(client_indices), 'client')}, some of them twice, or round {round_number} of 1 to "
                f"{LAST_ROUND}"
            )
        data = byte_rows(self._packed(arrays, len(client_indices)), self.layout)
        self.create()
        files = self._open()
        if files is None or not len(client_indices):
            return
        rounds = self._entries(files, client_indices)["round"]
        slots = _free_slots(rounds, round_number)
        occupied = np.flatnonzero(rounds[slots, np.arange(len(client_indices))])
        # This order is what a kill between two lines rests on; see the top of this file.
        files.set_entries(slots[occupied], client_indices[occupied], np.zeros(len(occupied), ENTRY))
        files.write_records(slots, client_indices, data)
        entries = np.empty(len(client_indices), ENTRY)
        entries["round"] = round_number
        entries["crc"] = _checks(data, client_indices, entries["round"], np.arange(len(client_indices)))
        files.set_entries(slots, client_indices, entries)

    def newest(self, client: int, before: int) -> tuple[int, dict[str, npt.NDArray[np.float32]]] | None:
        """Returns the newest round before `before` that the client remembers, with its vectors; None without one."""
        client_indices = self._client_indices([client])
        arrays = {name: np.zeros((1, length), RECORD) for name, length in self.layout.items()}
        round_number = int(self._read_records(arrays, client_indices, before)[0])
        vectors = {name: array[0].astype(np.float32, copy=False) for name, array in arrays.items()}
        return (round_number, vectors) if round_number else None

    def retract(self, clients: npt.ArrayLike, round_number: int) -> None:
        """Drops what clients wrote in round `round_number`, in which their replies were not used."""
        files, client_indices = self._open(), self._client_indices(clients)
        if files is not None and len(client_indices):
            slots, columns = np.nonzero(self._entries(files, client_indices)["round"] == round_number)
            files.set_entries(slots, client_indices[columns], np.zeros(len(slots), ENTRY))

    def sync(self) -> None:
        """Puts on disk what was written, by whatever process; called before the checkpoint that rests on it."""
        files = self._open()
        if files is not None:
            files.sync()

    def settle(self, round_number: int) -> None:
        """Drops what the checkpoint of round `round_number` made superfluous: all but each client's newest up to it.

        Called once that checkpoint is on disk: from then on the older one cannot be gone back to.
        """
        files = self._open()
        if files is not None:
            self._clear_entries(files, self._all_rounds(files), round_number, clear_later=False)

    def forget_after(self, round_number: int) -> None:
        """Drops what rounds after `round_number` wrote: they will be run again from its checkpoint.

        Raises IncompatibleError where a later round was settled and a client's memory as of `round_number` is gone.
        """
        files = self._open()
        if files is None:
            return
        rounds, settled = self._all_rounds(files), files.settled
        if round_number and np.any((rounds > round_number) & (rounds <= settled)):
            found = (
                f"client memory belongs to the checkpoint of round {settled} and cannot go back to round {round_number}"
            )
            raise IncompatibleError(found, hint="Restore that checkpoint, or start a new run.")
        self._clear_entries(files, rounds, round_number, clear_later=True)

    def require(self, round_number: int) -> None:
        """Raises IncompatibleError where what clients remembered as of round `round_number` is not there any more."""
        files = self._open()
        if files is None and round_number:
            raise IncompatibleError(f"there is no client memory in {self.directory}", hint=_PUT_BACK)
        if files is None or not round_number:
            return
        rounds = self._all_rounds(files)
        if np.any((rounds > round_number) & (rounds <= files.settled)):
            found = f"client memory of round {round_number} is not stored: only that of the newest checkpoint is kept"
            raise IncompatibleError(found, hint=f"The newest checkpoint is of round {files.settled}.")

    def close(self) -> None:
        """Closes the files; the next call opens them again."""
        if self._files is not None:
            self._files.close()
        self._files = None

    def _open(self) -> MemoryFiles | None:
        if self._files is None and self.directory.exists():
            self._files = MemoryFiles(self.directory, Dimensions(self.clients, self.layout))
        return self._files

    def _client_indices(self, clients: npt.ArrayLike) -> IntArray:
        client_indices = np.asarray(clients, np.int64)
        if client_indices.ndim != 1 or np.any((client_indices < 0) | (client_indices >= self.clients)):
            raise ValueError(f"client numbers of shape {client_indices.shape}, not all within 0 to {self.clients - 1}")
        return client_indices

    def _packed(self, arrays: Mapping[str, npt.NDArray[Any]], count: int) -> dict[str, npt.NDArray[Any]]:
        expected = {name: ((count, length), np.dtype(np.float32)) for name, length in self.layout.items()}
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if found != expected:
            hint = "Return float32 vectors of the lengths that `remembers` declares."
            raise FlctlError(
                f"vectors to remember: found {_described(found)}, expected {_described(expected)}", hint=hint
            )
        return {name: np.ascontiguousarray(array, RECORD) for name, array in arrays.items()}

    def _entries(self, files: MemoryFiles, client_indices: IntArray) -> npt.NDArray[np.void]:
        """The clients' entries [3, K]. Raises IntegrityError for one that was cleared by something else."""
        entries = files.entries(client_indices)
        half_written = np.flatnonzero(np.any((entries["round"] == 0) & (entries["crc"] != 0), axis=0))
        if len(half_written):
            raise _damaged(f"client {client_indices[half_written[0]]} has a record of a lost round")
        return entries

    def _read_records(self, arrays: Mapping[str, npt.NDArray[Any]], client_indices: IntArray, before: int) -> IntArray:
        """Reads records into `arrays`; returns their rounds [K], 0 without a record."""
        files = self._open()
        if files is None or not len(client_indices):
            return np.zeros(len(client_indices), np.int64)
        entries = self._entries(files, client_indices)
        earlier = np.where(entries["round"] < before, entries["round"], 0)
        slots, rounds = earlier.argmax(axis=0), np.array(earlier.max(axis=0), np.int64)
        rows = np.flatnonzero(rounds)
        data = byte_rows(arrays, self.layout)
        files.read_records(slots[rows], client_indices[rows], data, rows)
        found = _checks(data, client_indices[rows], rounds[rows], rows)
        wrong = np.flatnonzero(found != entries["crc"][slots[rows], rows])
        if len(wrong):
            row = rows[wrong[0]]
            raise _damaged(
                f"the record of client {client_indices[row]} from round {rounds[row]} is not as it was written"
            )
        return rounds

    def _all_rounds(self, files: MemoryFiles) -> npt.NDArray[np.uint32]:
        return np.array(self._entries(files, np.arange(self.clients))["round"], np.uint32)

    def _clear_entries(
        self, files: MemoryFiles, rounds: npt.NDArray[np.uint32], round_number: int, *, clear_later: bool
    ) -> None:
        """Clears entries up to `round_number` but for each client's newest, and with `clear_later` those after it."""
        until = np.where(rounds <= round_number, rounds, 0)
        dropped = until > 0
        dropped[until.argmax(axis=0), np.arange(self.clients)] = False
        if clear_later:
            dropped |= rounds > round_number
        slots, clients = np.nonzero(dropped)
        files.set_entries(slots, clients, np.zeros(len(slots), ENTRY))
        if files.settled != round_number:
            files.set_settled(round_number)


def _free_slots(rounds: npt.NDArray[np.uint32], round_number: int) -> IntArray:
    """Returns the slot [K] to write in round `round_number`, from the rounds [3, K] that are stored: the slot of that
    round if the client is asked again; else an empty slot; else the one that is neither the oldest nor the newest
    before."""
    columns = np.arange(rounds.shape[1])
    needed = np.zeros(rounds.shape, bool)
    needed[np.where(rounds > 0, rounds, LAST_ROUND).argmin(axis=0), columns] = True
    needed[np.where(rounds < round_number, rounds, 0).argmax(axis=0), columns] = True
    cost = np.select([rounds == round_number, rounds == 0, ~needed], [0, 1, 2], default=SLOTS)
    return np.asarray(cost.argmin(axis=0))


def _checks(data: Any, clients: IntArray, rounds: npt.NDArray[Any], rows: IntArray) -> npt.NDArray[np.uint32]:
    """Returns the CRC-32 of each row, seeded with its client and round, so that a misplaced record is detected."""
    starts = (clients.astype(np.uint64) * np.uint64(0x9E3779B1)) ^ (rounds.astype(np.uint64) * np.uint64(0x85EBCA77))
    checks = (starts & np.uint64(0xFFFFFFFF)).tolist()
    for view, size in data:
        offsets = [row * size for row in rows.tolist()]
        checks = [
            zlib.crc32(view[offset : offset + size], check) for offset, check in zip(offsets, checks, strict=True)
        ]
    return np.array(checks, np.uint32)


def _described(found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return ", ".join(f"'{name}' {list(shape)} {dtype}" for name, (shape, dtype) in found.items()) or "none"


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(f"client memory: {what}", hint=_PUT_BACK)

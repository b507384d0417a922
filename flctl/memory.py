"""What clients remember from one of their rounds to the next, on disk, keyed by client and round.

A file per client and round, written whole or not at all; a client in round r reads its newest file of a round
before r. So a round that is run again after a kill reads what it read the first time, and writes the same.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flctl import atomic, wire
from flctl.errors import IntegrityError, ProtocolError
from flctl.types import Arrays, ClientId

__all__ = ["ClientMemory"]


class ClientMemory:
    """The store under `directory`; nothing is created until a client has something to remember."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, client_id: ClientId, before: int) -> Arrays:
        """The client's vectors as of its newest round before `before`; empty when it has none."""
        rounds = [number for number in self._rounds(client_id) if number < before]
        if not rounds:
            return {}
        path = self._file(client_id, max(rounds))
        try:
            return wire.unpack(path.read_bytes(), "memory").arrays
        except ProtocolError as error:
            raise IntegrityError(f"client memory {path.name} is damaged: {error.message}") from error

    def write(self, client_id: ClientId, number: int, arrays: Arrays) -> None:
        """Keeps the vectors as of round `number`: with the operating system when this returns, on disk after `sync`."""
        folder = self._folder(client_id)
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_file(self._file(client_id, number), wire.pack("memory", arrays=arrays), flush=False)

    def sync(self) -> None:
        """Puts what was written on disk, by whatever process; called before the checkpoint that rests on it.

        One call for all: a flush for each client would cost more than training a small model.
        """
        if self.directory.is_dir():
            _flush_all(self.directory)

    def forget_after(self, number: int) -> None:
        """Drops what rounds after `number` wrote: they will be run again."""
        for path in self.directory.glob("*/*/*.bin"):
            if int(path.stem) > number:
                path.unlink()

    def settle(self, number: int) -> None:
        """Drops what the checkpoint of round `number` made superfluous: all but each client's newest up to it."""
        for folder in self.directory.glob("*/*"):
            old = sorted(n for n in _numbers(folder) if n <= number)
            for past in old[:-1]:
                (folder / f"{past}.bin").unlink()

    def _rounds(self, client_id: ClientId) -> list[int]:
        folder = self._folder(client_id)
        return _numbers(folder) if folder.is_dir() else []

    def _folder(self, client_id: ClientId) -> Path:
        key = hashlib.sha256(client_id.encode()).hexdigest()[:32]
        return self.directory / key[:2] / key

    def _file(self, client_id: ClientId, number: int) -> Path:
        return self._folder(client_id) / f"{number}.bin"


def _flush_all(directory: Path) -> None:
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in directory.glob("*/*/*.bin"):  # Windows
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.bin") if path.stem.isdigit()]

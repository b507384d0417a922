"""Blob files of the hub: received in parts, checked while they are written, and renamed when they are whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flctl.atomic import sync_directory
from flctl.federation.reasons import Reason, Refused

__all__ = ["BlobFolder", "BlobPart"]

SUFFIX = ".part"
STALE_SECONDS = 7 * 86400.0
READ = 1 << 20
MOST_PARTS = 8
"""Blobs of one uploader that may be on their way."""


@dataclass(slots=True)
class BlobPart:
    """A blob that is being received: its file, the bytes that are there, and their running SHA-256."""

    path: Path
    descriptor: int
    stored: int
    digest: Any

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends bytes. Raises Refused (`disk-full`) when the disk is full; the bytes before stay."""
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self.descriptor, view, self.stored)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise Refused(Reason.DISK_FULL, "The hub's disk is full.") from error
                raise
            self.digest.update(view[:count])
            self.stored += count
            view = view[count:]

    def close(self) -> None:
        """Closes the file, which stays for a later request."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class BlobFolder:
    """Folder of blobs named by their SHA-256, and of the parts of those on their way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self.parts.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Returns the file of a blob."""
        return self.folder / sha256[:2] / sha256

    def stored(self, sha256: str, uploader: str) -> int:
        """Returns the bytes of a blob that are there from an uploader."""
        try:
            return self._part(sha256, uploader).stat().st_size
        except FileNotFoundError:
            return 0

    def open_part(self, sha256: str, uploader: str, start: int) -> BlobPart:
        """Opens a part to write from byte `start` on; later bytes are dropped.

        Raises Refused (`blob-range`) if bytes before `start` are missing. The bytes that are there are hashed again.
        """
        path = self._part(sha256, uploader)
        if not path.exists():
            self._make_room(uploader)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < start:
                raise Refused(Reason.BLOB_RANGE)
            os.ftruncate(descriptor, start)
            digest, at = hashlib.sha256(), 0
            while at < start:
                chunk = os.pread(descriptor, min(READ, start - at), at)
                if not chunk:
                    raise Refused(Reason.BLOB_RANGE)
                digest.update(chunk)
                at += len(chunk)
        except BaseException:
            os.close(descriptor)
            raise
        return BlobPart(path, descriptor, start, digest)

    def _make_room(self, uploader: str) -> None:
        """Removes the oldest parts of an uploader: those that never become whole count in no quota."""
        parts = sorted(self.parts.glob(f"*.{uploader}{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in parts[: max(0, len(parts) + 1 - MOST_PARTS)]:
            path.unlink(missing_ok=True)

    def complete(self, part: BlobPart, sha256: str) -> None:
        """Flushes a whole part to disk. Raises Refused (`blob-digest`) and removes it if its bytes are others."""
        if part.digest.hexdigest() != sha256:
            part.close()
            part.path.unlink(missing_ok=True)
            raise Refused(Reason.BLOB_DIGEST)
        os.fsync(part.descriptor)
        part.close()

    def place(self, part: BlobPart, sha256: str) -> None:
        """Gives a complete part its name, on disk."""
        target = self.path(sha256)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True, mode=0o700)
            sync_directory(self.folder)
        os.replace(part.path, target)
        sync_directory(target.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Removes blobs."""
        for sha256 in names:
            self.path(sha256).unlink(missing_ok=True)

    def free(self) -> int:
        """Returns the free bytes of the disk."""
        return shutil.disk_usage(self.folder).free

    def missing(self, known: dict[str, int]) -> list[str]:
        """Removes files that the database does not know and stale parts; returns blobs without a file of their size."""
        found: set[str] = set()
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if known.get(path.name) == path.stat().st_size:
                found.add(path.name)
            else:
                path.unlink()
        for path in self.parts.iterdir():
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        return sorted(set(known) - found)

    def _part(self, sha256: str, uploader: str) -> Path:
        return self.parts / f"{sha256}.{uploader}{SUFFIX}"

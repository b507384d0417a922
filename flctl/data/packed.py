"""Packed files: gzip, bzip2, xz and zip archives of one member, known by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from flctl.errors import DataError, IntegrityError, command_line, counted

__all__ = ["PACKED", "opened"]

PACKED = ("", ".gz", ".bz2", ".xz", ".zip")
"""Endings behind that of a table."""
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked. Raises IntegrityError for a damaged archive, also while it is read."""
    with path.open("rb") as stream:
        start = stream.read(6)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "plain")
    try:
        with _open(path, kind) as stream:
            yield stream
    except EOFError as error:
        raise IntegrityError(f"{path.name} is truncated: {kind} ends early", hint="Fetch the file again.") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path.name} is not a valid {kind}: {error}", hint="Fetch the file again.") from error


@contextmanager
def _open(path: Path, kind: str) -> Iterator[IO[bytes]]:
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
            if len(names) != 1:
                raise DataError(
                    f"{path.name} has {counted(len(names), 'file')}, expected one",
                    hint=f"Unpack it first: {command_line('unzip', path)}",
                )
            with archive.open(names[0]) as member:
                yield member
        return
    openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    with openers.get(kind, open)(path, "rb") as stream:
        yield cast("IO[bytes]", stream)

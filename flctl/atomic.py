"""Files and directories that are either whole or absent, whatever happens while they are written.

Everything is written under a temporary name beside the target, flushed to disk, and renamed. The writer holds a
lock named after its temporary; a temporary whose lock is free belongs to a process that died, and the next
writer in that directory removes it. `write_file` is done in one go, so it needs no lock: its temporary counts as
abandoned after an hour.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flctl.errors import ConfigError, StorageError

__all__ = ["new_directory", "new_file", "refuse_existing", "remove_abandoned", "sync_directory", "write_file"]

PARTIAL = ".flctl-partial"
LOCK = ".flctl-lock"
UNLOCKED = ".flctl-unlocked"
LOCK_ORPHAN_SECONDS = 60.0
UNLOCKED_ORPHAN_SECONDS = 3600.0
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def write_file(path: Path, data: bytes, *, replace: bool = True, flush: bool = True) -> None:
    """Puts `data` at `path`, which holds either its old bytes or all of the new ones at any moment.

    With `flush` False that holds when this process is killed, but not when the machine loses power.
    Raises StorageError where it cannot be written, ConfigError where it exists and `replace` is False.
    """
    path = Path(path)
    if not replace:
        refuse_existing(path)
    with _storage_errors(path, everything=True):
        _make_parents(path.parent)
        partial = _temporary(path, UNLOCKED)
        try:
            if flush:
                _write_synced(partial, data)
                _place(partial, path, replace=replace)
            else:
                partial.write_bytes(data)
                partial.replace(path) if replace else _move(partial, path)
        finally:
            _remove(partial)


@contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write; it appears at `path` when the block ends without an exception, and never before.

    Raises ConfigError where `path` exists and `replace` is False, StorageError where it cannot be written.
    """
    path = Path(path)
    if not replace:
        refuse_existing(path)
    with _partial(path) as partial:
        with partial.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        _place(partial, path, replace=replace)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill; it appears at `path` when the block ends without an exception, and never before.

    Every file in it is on disk before the rename. Raises ConfigError where `path` exists (also when it came to
    exist in between), StorageError where it cannot be written.
    """
    path = Path(path)
    refuse_existing(path)
    with _partial(path) as partial:
        partial.mkdir()
        yield partial
        _sync_tree(partial)
        _place(partial, path, replace=False)


def refuse_existing(path: Path) -> None:
    """Raises ConfigError where something (even a dangling link) is at `path`."""
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already", hint="Choose another name; nothing is overwritten.")


def remove_abandoned(directory: Path) -> None:
    """Removes what writers that died left in `directory`; what a living one holds stays."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.name.startswith(".") and entry.name.endswith((PARTIAL, LOCK)):
                _remove_if_abandoned(Path(entry.path))
            elif entry.name.startswith(".") and entry.name.endswith(UNLOCKED):
                _remove_if_old(Path(entry.path))


def _remove_if_abandoned(path: Path) -> None:
    lock, partial = path.with_suffix(LOCK), path.with_suffix(PARTIAL)
    if path == lock and (partial.exists() or _age(lock) < LOCK_ORPHAN_SECONDS):
        return  # the partial's own turn comes, or its writer has locked it but not made it yet
    with _try_lock(lock) as owned:
        if owned:
            _remove(partial)
    if owned:
        lock.unlink(missing_ok=True)


def _remove_if_old(path: Path) -> None:
    if _age(path) > UNLOCKED_ORPHAN_SECONDS:
        _remove(path)


def _temporary(path: Path, suffix: str) -> Path:
    stem = path.name.encode()[:80].decode(errors="ignore")  # leaves room within a name's 255 bytes
    return path.parent / f".{stem}.{secrets.token_hex(6)}{suffix}"


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A fresh temporary name beside `path`, locked; what is left there afterwards is removed."""
    partial = _temporary(path, PARTIAL)
    made: list[Path] = []
    try:
        with _storage_errors(path, everything=True):
            made = _make_parents(path.parent)
            remove_abandoned(path.parent)
        with _storage_errors(path), _held_lock(partial.with_suffix(LOCK), path):
            try:
                yield partial
            finally:
                _remove(partial)
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()  # only empty folders that this call made


@contextmanager
def _held_lock(lock: Path, path: Path) -> Iterator[None]:
    with _storage_errors(path, everything=True):
        lock.touch()
    try:
        with _try_lock(lock):
            yield
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Yields True if this process got the lock, without waiting, and holds it for the block."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def _storage_errors(path: Path, *, everything: bool = False) -> Iterator[None]:
    """Names `path` in errors of the file system; inside the caller's block only those that come from writing."""
    try:
        yield
    except OSError as error:
        if not everything and error.errno not in _WRITE_ERRORS:
            raise
        reason = error.strerror or str(error)
        hint = "Check the free space, permissions and quota of that folder; no partial file is left there."
        raise StorageError(f"cannot write {path}: {reason}", hint=hint) from error


def _make_parents(directory: Path) -> list[Path]:
    """Makes `directory`; the ones that were made, innermost first."""
    missing = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _place(partial: Path, path: Path, *, replace: bool) -> None:
    """Renames the finished file or directory to its final name; the new name is on disk when this returns."""
    if replace:
        partial.replace(path)
    else:
        _move(partial, path)
    sync_directory(path.parent)


def _move(partial: Path, path: Path) -> None:
    """Renames without replacing: a rename alone would silently take an empty directory's or a file's place."""
    refuse_existing(path)
    try:
        if partial.is_dir() or not _link(partial, path):
            partial.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            refuse_existing(path)
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _link(partial: Path, path: Path) -> bool:
    """Gives the file its name by a hard link, which the system refuses where the name is taken; False where the
    file system has no links."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise
        return False
    return True


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            with open(os.path.join(folder, name), "rb+") as handle:
                os.fsync(handle.fileno())
        sync_directory(Path(folder))


def sync_directory(directory: Path) -> None:
    """Puts the entries of a directory on disk, so that a file which was made or renamed in it survives a power cut."""
    if os.name == "nt":
        return  # Windows has no handle on a directory that could be flushed; its renames are journalled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0

"""Files of private keys and secrets: readable by their owner alone, and never overwritten."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from flctl.atomic import refuse_existing
from flctl.errors import ConfigError, IntegrityError, StorageError

__all__ = ["read_secret", "write_secret"]


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Writes a file with mode 0600 in a folder that it creates with mode 0700; the file is whole or absent.

    Raises ConfigError if the file exists and `replace` is False, StorageError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not replace:
            refuse_existing(path)
        _write(partial, data)
        try:
            if replace:
                os.replace(partial, path)
            else:
                _name_once(partial, path, data)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def read_secret(path: Path, most: int = 1 << 16) -> bytes:
    """Reads a file of at most `most` bytes. Raises ConfigError if it cannot be read, IntegrityError if other users can
    read it or if it is longer."""
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise IntegrityError(
                    f"{path} can be read by other users",
                    hint=f"Run chmod 600 {path}; a memory stick without permissions is mounted with umask=077.",
                )
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise IntegrityError(f"{path} has more than {most} bytes, and is not a key")
    return data


def _name_once(partial: Path, path: Path, data: bytes) -> None:
    """Gives the file its name by a link, which never takes the place of a file that came in between. File systems of
    memory sticks have no links: there the file is written under its name, which a crash can leave cut off."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""Files of a source, and the checks before they are read."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flctl.errors import DataError, IntegrityError, command_line, counted, suggest

__all__ = [
    "DEFLATE_RATIO",
    "corrupt_gzip_refused",
    "existing",
    "existing_file",
    "expand",
    "files_of",
    "find_one",
    "is_gzip",
    "list_folder",
    "read_utf8",
    "require_memory",
    "short_name",
]

DEFLATE_RATIO = 1032
"""Deflate cannot shrink data by more than this factor, so a larger declared size is a lie (zlib, technical details)."""
_DESCRIPTIONS = (".json", ".md", ".txt", ".rst", ".yaml", ".yml", ".lock", ".crc")
"""Files about the data that lie beside it."""
MAX_DEPTH = 8
MANY_OTHERS = 1000
"""Files of other kinds after which a folder is not walked any further."""
_SUFFIX = re.compile(r"(\.[A-Za-z][A-Za-z0-9]*){1,2}$")


def existing(source: str) -> Path:
    """The path of a source that must be there. Raises DataError, with the closest name beside it."""
    path = Path(source)
    if path.exists():
        if not (path.is_file() or path.is_dir()):
            # Opening a pipe would wait for a writer for ever.
            raise DataError(
                f"{source} is neither a file nor a folder", hint="Write its content to a regular file first."
            )
        return path
    if path.is_symlink():
        raise DataError(f"{source} is a link to a missing file", hint="Correct the link, or fetch its target.")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{source}: no such file or folder", hint=suggest(path.name, beside) or "Check the path.")


def existing_file(source: str) -> Path:
    """The path of a file that must be there. Raises DataError also for a folder."""
    path = existing(source)
    if path.is_dir():
        raise DataError(f"{source} is a folder, and this reader reads one file", hint="Use a file in it.")
    return path


def expand(source: str, extensions: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of a source in file-name order: a file itself, a folder's files with these extensions, or a glob's.

    A folder without such files of its own gives those of its subfolders, unless these hold more files of other kinds.
    Of a glob's matches, files without these extensions are taken only if no match has one of the extensions.
    """
    path = Path(source)
    if path.is_dir():
        return list_folder(path, extensions) or _files_of_subfolders(path, extensions)
    if path.exists() or not glob.has_magic(source):
        return (path,)
    found = sorted(match for match in map(Path, glob.glob(source, recursive=True)) if match.is_file())
    return tuple(match for match in found if match.name.lower().endswith(extensions)) or tuple(found)


def files_of(source: str, extensions: tuple[str, ...]) -> tuple[Path, ...]:
    """Returns the files of a source, at least one. Raises DataError if no file matches."""
    if files := expand(source, extensions):
        return tuple(existing(str(file)) for file in files)
    if Path(source).is_dir():
        raise DataError(f"{source} holds no file that ends in {', '.join(extensions)}")
    raise DataError(f"{source}: no file matches")


def list_folder(folder: Path, extensions: tuple[str, ...]) -> tuple[Path, ...]:
    """A folder's own files with these extensions, sorted by name; hidden files are not data."""
    names = (p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower().endswith(extensions))
    return tuple(sorted(p for p in names if p.is_file()))


def _files_of_subfolders(folder: Path, extensions: tuple[str, ...]) -> tuple[Path, ...]:
    found: list[Path] = []
    others = 0
    for here, folders, names in os.walk(folder, followlinks=True):
        inner = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if inner < MAX_DEPTH else []
        for name in sorted(names):
            if name.lower().endswith(extensions) and not name.startswith((".", "_")):
                found.append(Path(here, name))
            others += not name.lower().endswith((*extensions, *_DESCRIPTIONS)) and not name.startswith((".", "_"))
        if others > MANY_OTHERS and others > len(found):
            return ()
    return tuple(found) if len(found) >= others else ()


def short_name(source: str) -> str:
    """Name of a data set: the base name without its extensions, of a glob the folder's; never a path."""
    path = Path(source)
    name = path.parent.name if glob.has_magic(path.name) else path.name
    return _SUFFIX.sub("", name) or name or "data"


def require_memory(nbytes: int, what: str) -> None:
    """Raises DataError where `nbytes` cannot fit this machine's memory, before anything is allocated."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > total:
        raise DataError(
            f"{what} needs {nbytes / 2**30:,.1f} GiB and this machine has {total / 2**30:,.1f} GiB",
            hint="Split the file, or keep fewer columns.",
        )


def read_utf8(path: Path) -> str:
    """A whole text file, line ends as \\n. Raises DataError naming the line that is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text",
            hint=f"Convert it first: {command_line('iconv', '-f', 'latin1', '-t', 'utf-8', path)}",
        ) from error


def is_gzip(path: Path) -> bool:
    """True if the file begins as a .gz does, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def corrupt_gzip_refused(path: Path) -> Iterator[None]:
    """Turns what a broken .gz raises while it is read into IntegrityError."""
    try:
        yield
    except EOFError as error:
        raise IntegrityError(f"{path.name} is truncated: the .gz ends early", hint="Fetch the file again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise IntegrityError(f"{path.name} is not a valid .gz: {error}", hint="Fetch the file again.") from error


def find_one(folder: Path, accept: Callable[[str], object], what: str) -> Path | None:
    """Returns the one file of a folder that `accept` takes, or None. Raises DataError for several."""
    found: Sequence[Path] = sorted(p for p in folder.iterdir() if p.is_file() and accept(p.name))
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise DataError(f"{folder.name} has {counted(len(found), 'file')} of {what}: {names}", hint="Use one of them.")
    return found[0] if found else None

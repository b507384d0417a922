"""Blobs between files and the hub: streamed, and resumed at the first byte that is missing."""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flctl.atomic import sync_directory
from flctl.errors import IntegrityError
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.line import Answer, Line
from flctl.federation.transport.request_signing import body_digest
from flctl.federation.transport.retries import Interrupted

__all__ = ["Moved", "fetch", "send"]

CHUNK = 1 << 18
"""Bytes that are read and sent at once."""
Moved = Callable[[int, int], None]
"""Receives the bytes that have moved so far, and all of them."""


def fetch(line: Line, sha256: str, size: int, into: Path, moved: Moved | None = None) -> None:
    """Fetches a blob of exactly `size` bytes into a file, which appears whole or not at all.

    A partial file beside it is kept if this is interrupted, and continued. Raises Refused (`blob-digest`) if the hub
    gives other bytes twice.
    """
    partial = into.with_name(into.name + ".part")
    if into.exists() and _is(into, sha256, size):
        return
    for _ in range(2):
        line.retried(lambda: _fetch_rest(line, sha256, size, partial, moved), lambda: _length(partial))
        if _is(partial, sha256, size):
            partial.replace(into)
            sync_directory(into.parent)
            return
        partial.unlink()
    raise Refused(Reason.BLOB_DIGEST)


def send(line: Line, path: Path, sha256: str, purpose: str, moved: Moved | None = None) -> None:
    """Sends a file as a blob; the hub has it on disk when this returns.

    `purpose` is a query such as `task=ID` or `run=NAME`. Raises Refused if the hub refuses the blob, IntegrityError if
    the file is not what its digest says.
    """
    size = path.stat().st_size
    target = f"/1/blobs/{sha256}?{purpose}"
    reached = 0

    def attempt() -> None:
        nonlocal reached
        reached, whole = _stored(line.once("GET", f"/1/blobs/{sha256}/state?{purpose}&bytes={size}").value, size)
        if moved:
            moved(reached, size)
        if not whole and not _send_rest(line, target, path, (reached, size), moved):
            reached = 0  # the hub has dropped what was there
            if not _is(path, sha256, size):
                raise IntegrityError(
                    f"{path.name} is not the file of its digest", hint="Repeat the step that wrote it."
                )
            raise Interrupted("bytes of a blob were changed on their way")

    line.retried(attempt, lambda: reached)


def _stored(state: object, size: int) -> tuple[int, bool]:
    """The bytes that the hub has of a blob, and True if it has all. Raises Interrupted for another answer."""
    if isinstance(state, dict) and state.get("whole") is True:
        return size, True
    stored = state.get("stored") if isinstance(state, dict) else None
    if type(stored) is not int or stored < 0:
        raise Interrupted("an answer of another form")
    return min(stored, size), False


def _send_rest(line: Line, target: str, path: Path, at: tuple[int, int], moved: Moved | None) -> bool:
    """Sends the bytes from `at[0]` on. False if the hub found another digest."""
    start, size = at
    content_range = f"bytes {start}-{size - 1}/{size}" if size > start else f"bytes */{size}"
    headers = {"Content-Range": content_range, "Content-Type": "application/octet-stream"}
    with (
        path.open("rb") as source,
        line.exchange("PUT", target, body_digest(content_range.encode()), headers, size - start) as connection,
    ):
        source.seek(start)
        answer = _sent(line, connection, source, at, moved)
    try:
        line.judged(answer)
    except Refused as refused:
        if refused.reason is Reason.BLOB_DIGEST:
            return False
        raise
    return True


def _sent(
    line: Line, connection: http.client.HTTPConnection, source: BinaryIO, at: tuple[int, int], moved: Moved | None
) -> Answer:
    """Streams the file and reads the answer, also one that the hub gives before it has read everything."""
    done, size = at
    try:
        while done < size and not line.stop.is_set():
            chunk = source.read(min(CHUNK, size - done))
            if not chunk:
                raise IntegrityError(f"{Path(source.name).name} became shorter while it was sent")
            connection.send(chunk)
            done += len(chunk)
            if moved:
                moved(done, size)
        if done < size:
            raise Interrupted("the client was stopped")
    except (BrokenPipeError, ConnectionResetError) as error:
        with suppress(OSError, http.client.HTTPException):
            return line.read(connection.getresponse())
        raise error from None
    return line.read(connection.getresponse())


def _fetch_rest(line: Line, sha256: str, size: int, partial: Path, moved: Moved | None) -> None:
    """Appends the missing bytes to the partial file. Raises Interrupted if the answer ends before them."""
    start = _length(partial)
    if start >= size:
        partial.touch()
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    path = f"/1/blobs/{sha256}"
    with line.exchange("GET", path, body_digest(b""), headers, 0) as connection, partial.open("ab") as target:
        response = connection.getresponse()
        if response.status != (206 if start else 200) or response.length != size - start:
            line.judged(line.read(response))
            raise Interrupted("an answer of another length")
        done = start
        while done < size:
            chunk = response.read(min(CHUNK, size - done))
            if not chunk:
                raise Interrupted("the answer was cut")
            target.write(chunk)
            done += len(chunk)
            if moved:
                moved(done, size)
            if line.stop.is_set():
                raise Interrupted("the client was stopped")
        response.read()
        target.flush()
        os.fsync(target.fileno())


def _is(path: Path, sha256: str, size: int) -> bool:
    if path.stat().st_size != size:
        return False
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == sha256


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

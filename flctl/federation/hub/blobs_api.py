"""Blobs: the hub's endpoints for sealed files, in both directions with ranges."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import StreamReader, web

from flctl.federation.hub.blobs import BlobPart
from flctl.federation.hub.door import Caller
from flctl.federation.hub.post_box import PostBox
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.request_signing import body_digest
from flctl.federation.transport.tasks import is_task_id

__all__ = ["BlobsApi"]

BUFFER = 1 << 19
"""Bytes that are gathered before a thread hashes and writes them."""
CHUNK = 1 << 18
QUIET = 0.25
"""Seconds without a byte after which a later request of the same caller ends an upload of the same blob."""
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,15})-([0-9]{1,15})|\*)/([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob that a caller may send: for which run and round, under which reference, and its size."""

    caller: Caller
    sha256: str
    size: int
    run: str
    ref: str
    round: int | None

    @property
    def key(self) -> tuple[str, str]:
        """Names the one upload of a blob by a caller that may be in progress."""
        return self.sha256, self.caller.name


@dataclass(slots=True)
class Receiving:
    """An upload in progress: cancelling its task ends it, and `done` is set once its part is closed."""

    name: str
    task: asyncio.Task[Any]
    received: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self) -> None:
        """Waits while bytes arrive, which a cut connection may still hold; ends an upload that gets no more."""
        while not self.done.is_set():
            before = self.received
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.done.wait(), QUIET)
            if self.received == before and not self.done.is_set():
                self.task.cancel()
                await self.done.wait()


class BlobsApi:
    """Handlers for blobs."""

    def __init__(self, box: PostBox) -> None:
        self._box = box

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes of all handlers."""
        return [
            web.get("/1/blobs/{sha256}", self.get, allow_head=False),
            web.get("/1/blobs/{sha256}/state", self.state, allow_head=False),
            web.put("/1/blobs/{sha256}", self.put),
        ]

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Sends a blob, or its bytes from a position on."""
        caller, sha256, box = self._bodyless(request), _name(request), self._box
        size = await box.db(box.store.blob_size, sha256)
        coordinator = caller.role == "coordinator"
        if size is None or not await box.db(box.store.may_read, sha256, caller.name, coordinator=coordinator):
            raise Refused(Reason.BLOB_NAME)
        asked = request.headers.get("Range")
        start, stop = _asked(asked, size) if asked is not None else (0, size)
        response = web.StreamResponse(status=200 if asked is None else 206)
        response.content_type = "application/octet-stream"
        response.content_length = stop - start
        if asked is not None:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        source = await box.files(open, box.blobs.path(sha256), "rb", buffering=0)
        with source:
            await response.prepare(request)
            await box.files(source.seek, start)
            while start < stop:
                chunk = await box.files(source.read, min(CHUNK, stop - start))
                if not chunk:
                    break  # the connection ends before the promised length, which the reader notices
                async with asyncio.timeout(box.limits.stall):
                    await response.write(chunk)
                start += len(chunk)
        await response.write_eof()
        return response

    async def state(self, request: web.Request) -> web.Response:
        """Bytes of a blob that are there from the caller, after all checks that the upload would meet: a refusal comes
        before the first byte is sent."""
        upload = await self._upload(self._bodyless(request), request, _size(request.query.get("bytes", "")))
        if former := self._box.receiving.get(upload.key):
            await former.ended()
        whole = await self._box.db(self._box.store.in_run, upload.sha256, upload.run)
        stored = upload.size if whole else await self._box.files(self._box.blobs.stored, *upload.key)
        if not whole:
            await self._check_room(upload, stored)
        return web.json_response({"stored": stored, "whole": whole})

    async def put(self, request: web.Request) -> web.Response:
        """Receives a blob, or its bytes from a position on; 200 once it is on disk.

        A cut connection ends the request and not its work: all bytes that arrived are stored first.
        """
        work = asyncio.create_task(self._put(request))
        work.add_done_callback(_looked_at)
        return await asyncio.shield(work)

    async def _put(self, request: web.Request) -> web.Response:
        caller, box = self._box.door.member(request), self._box
        content_range = request.headers.get("Content-Range", "")
        caller.check_body(body_digest(content_range.encode()))
        start, size = _given(content_range, request.content_length or 0)
        upload = await self._upload(caller, request, size)
        await self._check_room(upload, start)
        async with self._alone(upload, size - start) as receiving:
            part = await box.files(box.blobs.open_part, *upload.key, start)
            try:
                await self._receive(request, part, receiving)
                await box.files(box.blobs.complete, part, upload.sha256)
            finally:
                part.close()
            await box.db(self._record, part, upload)
        return web.json_response({"stored": size})

    def _record(self, part: BlobPart, upload: Upload) -> None:
        """Runs on the database's thread, on which blobs are also removed: none is removed between file and record."""
        self._box.blobs.place(part, upload.sha256)
        self._box.store.add_blob(upload.sha256, upload.size, upload.run, upload.ref, upload.round)

    def _bodyless(self, request: web.Request) -> Caller:
        caller = self._box.door.member(request)
        caller.check_body(body_digest(b""))
        return caller

    async def _upload(self, caller: Caller, request: web.Request, size: int) -> Upload:
        """The upload that a request asks for. Raises Refused unless the caller may make it."""
        sha256, box = _name(request), self._box
        task, run = request.query.get("task", ""), request.query.get("run", "")
        if size > box.limits.blob_bytes:
            raise Refused(Reason.BLOB_SIZE)
        if caller.role == "coordinator":
            owner = await box.db(box.store.coordinator, run)
            if not run or len(run) > 64 or owner not in (None, caller.name):
                raise Refused(Reason.RUN_OTHER)
            return Upload(caller, sha256, size, run, f"{caller.name} {run}", None)
        found = await box.db(box.store.task, task) if is_task_id(task) else None
        if found is None or found.site != caller.name or found.state != "open":
            raise Refused(Reason.TASK_UNKNOWN)
        ref = f"{caller.name} {task}"
        larger = size + await box.db(box.store.uploaded, ref) > found.reply_bytes
        if larger and not await box.db(box.store.in_run, sha256, found.run):
            raise Refused(Reason.REPLY_SIZE)
        return Upload(caller, sha256, size, found.run, ref, found.round)

    async def _check_room(self, upload: Upload, stored: int) -> None:
        """Raises Refused (`quota`, `disk-full`) if the missing bytes do not fit."""
        box, missing = self._box, upload.size - stored
        used = await box.db(box.store.used, upload.run) + box.reserved.get(upload.run, 0)
        if used + missing > box.limits.run_bytes:
            raise Refused(
                Reason.QUOTA,
                f"The run holds {used:,} bytes on the hub, and {missing:,} more would exceed its quota of "
                f"{box.limits.run_bytes:,}. The coordinator ends old runs, or the operator raises --quota.",
            )
        free = box.blobs.free()
        if missing + box.limits.free_bytes > free:
            raise Refused(
                Reason.DISK_FULL, f"The hub's disk has {free:,} bytes free, and {missing:,} more are to be stored."
            )

    @asynccontextmanager
    async def _alone(self, upload: Upload, missing: int) -> AsyncIterator[Receiving]:
        """Ends a former upload of the same blob by the same caller, whose connection may be cut without a sign, and
        reserves room for this one."""
        receiving, reserved, task = self._box.receiving, self._box.reserved, asyncio.current_task()
        if task is None:
            raise RuntimeError("an upload outside of a task")
        former, mine = receiving.get(upload.key), Receiving(upload.caller.name, task)
        receiving[upload.key] = mine
        reserved[upload.run] = reserved.get(upload.run, 0) + missing
        try:
            if former is not None:
                await former.ended()
            yield mine
        finally:
            mine.done.set()
            reserved[upload.run] -= missing
            if not reserved[upload.run]:
                del reserved[upload.run]
            if receiving.get(upload.key) is mine:
                del receiving[upload.key]

    async def _receive(self, request: web.Request, part: BlobPart, receiving: Receiving) -> None:
        """Writes the body to the part. All bytes that arrived before a cut are kept."""
        writer, limits, buffer = Writer(self._box, part), self._box.limits, bytearray()
        loop, missing, name = asyncio.get_running_loop(), request.content_length or 0, receiving.name
        started = loop.time()
        try:
            while receiving.received < missing:
                latest = started + limits.body_grace + receiving.received / limits.body_rate
                async with asyncio.timeout(min(limits.stall, max(latest - loop.time(), 0.0))):
                    chunk = await request.content.readany()
                if not chunk:
                    raise Refused(Reason.BLOB_RANGE, "The upload ended early.")
                receiving.received += len(chunk)
                buffer += chunk
                if len(buffer) >= BUFFER:
                    full, buffer = buffer, bytearray()
                    await writer.write(full)
                    self._box.presence.advanced(name)
        finally:
            if receiving.received < missing:
                buffer += _arrived(request.content)
            await asyncio.shield(writer.end(buffer))


class Writer:
    """Writes to a part on a thread, one buffer while the next is received."""

    def __init__(self, box: PostBox, part: BlobPart) -> None:
        self._box, self._part = box, part
        self._writing: asyncio.Task[None] | None = None

    async def write(self, buffer: bytearray) -> None:
        """Begins to write a buffer once the one before is written."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
        self._writing = asyncio.create_task(self._box.files(self._part.write, buffer))

    async def end(self, buffer: bytearray) -> None:
        """Writes the last buffer. A part that did not become whole is closed by the caller or here."""
        await self.write(buffer)
        if self._writing is not None:
            await self._writing


def _looked_at(work: asyncio.Task[Any]) -> None:
    """Takes the error of work whose request has ended, so that asyncio does not report it as lost."""
    if not work.cancelled():
        work.exception()


def _arrived(content: StreamReader) -> bytes:
    """Bytes that arrived before a connection was cut: aiohttp keeps them behind the error, without a public way to read
    them."""
    content._exception = None
    try:
        return content.read_nowait()
    except RuntimeError:  # a read was interrupted, so there are none
        return b""


def _name(request: web.Request) -> str:
    """The blob's name in a path. Raises Refused (`blob-name`) unless it is a digest."""
    name = request.match_info["sha256"]
    if not is_task_id(name):
        raise Refused(Reason.BLOB_NAME)
    return name


def _size(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refused(Reason.BLOB_SIZE)
    return int(text)


def _asked(header: str, size: int) -> tuple[int, int]:
    """First byte and end of a Range header with one range. Raises Refused (`blob-range`) for anything else."""
    found = _RANGE.fullmatch(header)
    if found is None or int(found[1]) >= size or (found[2] and not int(found[1]) <= int(found[2]) < size):
        raise Refused(Reason.BLOB_RANGE)
    return int(found[1]), int(found[2]) + 1 if found[2] else size


def _given(header: str, length: int) -> tuple[int, int]:
    """First byte and whole size of a Content-Range header. Raises Refused (`blob-range`) unless its range ends with
    the blob and is as long as the body."""
    found = _CONTENT_RANGE.fullmatch(header)
    if found is None:
        raise Refused(Reason.BLOB_RANGE)
    size = int(found[3])
    start, stop = (int(found[1]), int(found[2]) + 1) if found[1] else (size, size)
    if stop != size or not 0 <= start <= size or length != size - start:
        raise Refused(Reason.BLOB_RANGE)
    return start, size

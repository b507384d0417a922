"""A worker process as the server sees it: frames in, frames out, over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from flctl.engines.opening import Opening
from flctl.errors import FlctlError, IntegrityError, ProtocolError, StorageError, counted
from flctl.models.parts import Outline
from flctl.types import ClientId, Failure, Gathered, IntArray, Outgoing
from flctl.wire import frames, messages
from flctl.wire.shared_memory import Bytes, SharedBlock

__all__ = ["NotOpenedError", "WorkerProcess", "read_frame", "write_parts"]


_PIPE_BYTES = 1 << 20
_KEPT = str(1 << 30)
_REPORT_BYTES = 1 << 26
"""Largest body of a worker's report that it has opened the run."""
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Chunk after chunk asks for blocks of the same sizes: giving them back to the system each time, as glibc does
    # with large ones, costs small models a fifth of their time in page faults.
    "MALLOC_MMAP_THRESHOLD_": _KEPT,
    "MALLOC_TRIM_THRESHOLD_": _KEPT,
}


class NotOpenedError(FlctlError):
    """A worker process could not open its run. `reason` is the code of a refusal, empty for any other error."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(f"a worker process could not open the run: {message}")
        self.reason = reason


def read_frame(stream: IO[bytes], most: int = frames.MAX_BODY) -> bytes:
    """Returns the next whole frame.

    Raises EOFError at the end of the stream, ProtocolError for bytes that are no frame or declare more than `most`.
    """
    prefix = _read(stream, frames.PREFIX.size)
    header, body = frames.lengths(prefix, most)
    return prefix + _read(stream, header + body)


def write_parts(stream: IO[bytes], parts: list[bytes]) -> None:
    """Writes the buffers of one frame."""
    for part in parts:
        stream.write(part)
    stream.flush()


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"the stream ended after {len(data)} of {size} bytes")
    return data


class WorkerProcess:
    """One `python -m flctl.worker`, told to open a run; `ask` is one client's turn."""

    def __init__(self, opening: Opening) -> None:
        # -P: a folder named flctl where the user happens to stand is not this flctl.
        command = [*opening.prefix, sys.executable, "-P", "-m", "flctl.worker"]
        inherited = os.environ if opening.environment is None else opening.environment
        environment = {**inherited, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, opening.path))}
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._sent: bytes | None = None
        for stream in (self._stdin, self._stdout):
            _widen(stream)
        self._reply_bytes = opening.reply_bytes
        write_parts(self._stdin, opening.message())

    @property
    def _stdin(self) -> IO[bytes]:
        return self._process.stdin  # type: ignore[return-value]

    @property
    def _stdout(self) -> IO[bytes]:
        return self._process.stdout  # type: ignore[return-value]

    def wait_until_open(self) -> Outline:
        """Returns the outline of the run's model once the worker can take clients. Raises NotOpenedError if it cannot
        open the run, FlctlError if it ended."""
        try:
            frame = frames.unpack(read_frame(self._stdout, _REPORT_BYTES), "opened")
        except EOFError as error:
            raise FlctlError(f"a worker process ended with code {self.exit_code()} before it was ready") from error
        if frame.meta["error"]:
            raise NotOpenedError(str(frame.meta["error"]), str(frame.meta.get("reason", "")))
        return Outline.of_plain(json.loads(frame.arrays["outline"].tobytes()))

    def ask(self, ids: Sequence[ClientId], work: bytes) -> list[Outgoing | Failure] | Failure:
        """Trains clients and returns the vectors of each, or why there are none.

        Raises EOFError or OSError when the process is gone. `work` is sent once a round.
        """
        self._send(work)
        write_parts(self._stdin, frames.pack_parts("ask", meta={"clients": list(ids)}))
        answer = self._answer(len(ids))
        sent = _lost(answer) or messages.unpack_outgoing(answer)
        if not isinstance(sent, Failure) and len(sent) != len(ids):
            raise ProtocolError(f"a worker answered for {len(sent)} of {counted(len(ids), 'client')}")
        return sent

    def gather(
        self,
        client_indices: IntArray,
        work: bytes,
        shared_block: tuple[SharedBlock, Bytes] | None = None,
        *,
        keep_individual: bool,
    ) -> Gathered | Failure:
        """Returns the reply of a chunk of clients, or the reason without one; raises as `ask` does. `shared_block` is a
        shared block for the rows."""
        self._send(work)
        block, memory = shared_block or (None, None)
        meta = {"each": keep_individual, "slab": block and block.address}
        write_parts(self._stdin, frames.pack_parts("gather", meta=meta, arrays={"numbers": client_indices}))
        answer = self._answer(len(client_indices))
        return _lost(answer) or messages.unpack_gathered(answer, memory)

    def _answer(self, clients: int) -> bytes:
        """Returns the worker's next frame, which has a reply for each client, or their sum, and no more."""
        return read_frame(self._stdout, min(frames.MAX_BODY, (clients + 1) * self._reply_bytes))

    def _send(self, work: bytes) -> None:
        if work is not self._sent:
            self._stdin.write(work)
            self._sent = work

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Describes how the process ended, after waiting a moment for it to end."""
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def end(self) -> None:
        """Ends the process and frees its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            try:
                stream.close()
            except OSError:  # what was not yet written to a dead process is of no use
                continue


def _widen(stream: IO[bytes]) -> None:
    """Lets a pipe hold as much as the system allows an ordinary user: models cross it in fewer turns."""
    try:
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):  # not Linux, or the user's pipes are full: slower, and as good
        return


def _lost(answer: bytes) -> Failure | None:
    """Returns the failure that a worker reports instead of a reply, if it does. Raises errors that must end the run."""
    kind = frames.kind_of(answer)
    if kind == "stop":
        meta = frames.unpack(answer, "stop").meta
        raise (StorageError if meta["storage"] else IntegrityError)(meta["message"], hint=meta["hint"])
    if kind != "lost":
        return None
    return Failure("memory", str(frames.unpack(answer, "lost").meta["message"]))

"""A pool of worker processes on this machine; they map the partition into memory and share its pages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flctl import messages
from flctl.engine import Engine
from flctl.engines.worker_process import WorkerProcess
from flctl.errors import ProtocolError
from flctl.types import ClientId, Failure, Reply, Request, Work

if TYPE_CHECKING:
    from flctl.run import Run

POLL_SECONDS = 0.2
Answer = tuple[ClientId, Reply | Failure, bytes]


@dataclass(slots=True)
class Seat:
    """One worker's place: the process that sits there now, and since when it works on a client."""

    process: WorkerProcess
    busy_since: float | None = None
    overdue: bool = False


class PoolEngine(Engine):
    """Runs clients in `engine.workers` processes of one thread each; the numbers do not depend on how many.

    A worker that dies fails its client and is replaced; one that is past the deadline is ended.
    """

    name = "pool"
    _run: Run
    _seats: list[Seat]
    _memories: dict[ClientId, bytes]
    _round: int
    _closing: bool

    @contextmanager
    def open(self, run: Run) -> Iterator[PoolEngine]:
        self._run, self._memories, self._round, self._closing = run, {}, 0, False
        self._work: tuple[Work, bytes] | None = None
        self._seats = [Seat(WorkerProcess(run)) for _ in range(run.config.engine.workers)]
        try:
            for seat in self._seats:
                seat.process.wait_until_open()
            yield self
        finally:
            self._closing = True
            for seat in self._seats:
                seat.process.end()

    def clients(self) -> Sequence[ClientId]:
        return self._run.partition.client_ids

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        number = next((request.round for request in requests.values()), self._round)
        if number != self._round:  # memory is for a round's next phase, not for the next round
            self._round, self._memories = number, {}
        todo: queue.SimpleQueue[tuple[ClientId, Request]] = queue.SimpleQueue()
        for item in requests.items():
            todo.put(item)
        done: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        packed = self._packed(next((r.work for r in requests.values() if r.work is not None), None))
        for seat in self._seats:
            threading.Thread(target=self._serve, args=(seat, todo, done, packed), daemon=True).start()
        for _ in range(len(requests)):
            client_id, answer, memory = self._next(done, deadline)
            if memory:
                self._memories[client_id] = memory
            yield client_id, answer

    def _packed(self, work: Work | None) -> bytes | None:
        if work is None:
            return None
        if self._work is None or self._work[0] is not work:
            self._work = (work, messages.pack_work(work))
        return self._work[1]

    def _next(self, done: queue.SimpleQueue[Answer | BaseException], deadline: float | None) -> Answer:
        """The next answer; meanwhile ends workers whose client is past the deadline."""
        while True:
            if deadline is not None:  # also while answers of others keep coming
                self._end_overdue(deadline)
            try:
                item = done.get(timeout=None if deadline is None else POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _end_overdue(self, deadline: float) -> None:
        for seat in self._seats:
            if seat.busy_since is not None and time.monotonic() - seat.busy_since > deadline:
                seat.overdue = True
                seat.process.kill()

    def _serve(
        self,
        seat: Seat,
        todo: queue.SimpleQueue[tuple[ClientId, Request]],
        done: queue.SimpleQueue[Answer | BaseException],
        packed: bytes | None,
    ) -> None:
        """One seat's thread: takes clients until there are none left."""
        try:
            while True:
                client_id, request = todo.get_nowait()
                done.put(self._ask(seat, client_id, request, packed))
        except queue.Empty:
            return
        except BaseException as error:
            done.put(error)

    def _ask(self, seat: Seat, client_id: ClientId, request: Request, packed: bytes | None) -> Answer:
        seat.busy_since, seat.overdue = time.monotonic(), False
        memory = self._memories.pop(client_id, b"")
        try:
            work = packed if request.work is not None else None
            answer, kept = seat.process.ask(client_id, request, memory, work)
        except (EOFError, OSError):
            failure = _death(seat, time.monotonic() - seat.busy_since)
            self._replace(seat)
            return client_id, failure, b""
        except ProtocolError as error:
            self._replace(seat)
            return client_id, Failure("protocol", error.message), b""
        finally:
            seat.busy_since = None
        return client_id, answer, kept

    def _replace(self, seat: Seat) -> None:
        """A new process in a seat whose process died or cannot be understood; none when the engine closes."""
        seat.busy_since = None  # the deadline is the client's, not the start of the next process
        seat.process.end()
        if not self._closing:
            seat.process = WorkerProcess(self._run)
            seat.process.wait_until_open()


def _death(seat: Seat, seconds: float) -> Failure:
    if seat.overdue:
        return Failure("deadline", f"no reply within {seconds:.1f} s; its worker was ended")
    return Failure("worker-died", f"the worker process ended with code {seat.process.exit_code()}")

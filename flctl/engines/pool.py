"""A pool of worker processes on this machine; they map the partition into memory and share its pages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from flctl.engines.engine import Engine, Lost
from flctl.engines.grouping import groups
from flctl.engines.worker_process import WorkerProcess
from flctl.errors import ProtocolError
from flctl.types import ClientId, Failure, Gathered, IntArray, Reply, Request, Work
from flctl.wire import messages
from flctl.wire.shared_memory import SharedMemoryPool

if TYPE_CHECKING:
    from flctl.run.run import Run

POLL_SECONDS = 0.2
_FLOAT_BYTES = 4
_ROOM_BETWEEN = 4096
"""Bytes for the gaps between a reply's vectors."""
Job = Callable[[WorkerProcess], Any]
"""Task of one worker: it serves a group of clients. Returns its result, or one `Failure` for all of them."""


@dataclass(slots=True)
class Seat:
    """One worker's place: the process that sits there now, and since when it works."""

    process: WorkerProcess
    busy_since: float | None = None
    overdue: bool = False


class PoolEngine(Engine):
    """Runs clients in `engine.workers` processes of one thread each; results do not depend on the number of processes.

    A worker that dies is replaced, and its clients are asked again one by one to find the one at fault. A worker past
    the deadline is killed.
    """

    name = "pool"
    gathers = True
    _run: Run
    _seats: list[Seat]
    _memories: dict[ClientId, bytes]
    _round: int
    _closing: bool

    @contextmanager
    def open(self, run: Run) -> Iterator[PoolEngine]:
        self._run, self._memories, self._round, self._closing = run, {}, 0, False
        self._work: tuple[Work, bytes] | None = None
        self._slabs = SharedMemoryPool()
        self._seats = [Seat(WorkerProcess(run)) for _ in range(run.config.engine.workers)]
        try:
            for seat in self._seats:
                seat.process.wait_until_open()
            yield self
        finally:
            self._closing = True
            for seat in self._seats:
                seat.process.end()
            self._slabs.close()

    def clients(self) -> Sequence[ClientId]:
        return self._run.partition.client_ids

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        number = next((request.round for request in requests.values()), self._round)
        if number != self._round:  # memory is for a round's next phase, not for the next round
            self._round, self._memories = number, {}
        work = next((request.work for request in requests.values() if request.work is not None), None)
        packed = None if work is None else self._packed(work)
        asked = groups(requests)
        while asked:
            again: list[list[ClientId]] = []
            jobs = [partial(self._ask, group, requests, packed) for group in asked]
            for place, answers in self._do(jobs, deadline):
                if not isinstance(answers, Failure):
                    yield from self._received(asked[place], answers)
                elif len(asked[place]) > 1:
                    again += [[client_id] for client_id in asked[place]]
                else:
                    yield asked[place][0], answers
            asked = again

    def gather(
        self, work: Work, chunks: Sequence[IntArray], each: bool, deadline: float | None = None
    ) -> Iterator[tuple[int, Gathered | Lost]]:
        row = _FLOAT_BYTES * sum(work.layout.values()) if each else 0
        jobs = [partial(self._gather, numbers, row, self._packed(work)) for numbers in chunks]
        for place, gathered in self._do(jobs, deadline):
            yield place, Lost(gathered) if isinstance(gathered, Failure) else gathered

    def _gather(self, numbers: IntArray, row: int, packed: bytes, process: WorkerProcess) -> Gathered | Failure:
        """A chunk's turn; `row` is how many bytes a client's vectors have, 0 where only their sum is asked for."""
        room = row * len(numbers) + _ROOM_BETWEEN if row else 0
        return process.gather(numbers, row > 0, packed, self._slabs.take(room))

    def _packed(self, work: Work) -> bytes:
        """The cohort's work as bytes, made once a round: later phases send it to no one, or the same again."""
        if self._work is None or self._work[0] is not work:
            self._work = (work, messages.pack_work(work))
        return self._work[1]

    def _ask(
        self,
        group: Sequence[ClientId],
        requests: Mapping[ClientId, Request],
        packed: bytes | None,
        process: WorkerProcess,
    ) -> Any:
        memories = [self._memories.get(client_id, b"") for client_id in group]
        asked = [requests[client_id] for client_id in group]
        return process.ask(group, asked, memories, packed if asked[0].work is not None else None)

    def _received(
        self, group: Sequence[ClientId], answers: Sequence[tuple[Reply | Failure, bytes]]
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        for client_id, (answer, memory) in zip(group, answers, strict=True):
            self._memories.pop(client_id, None)
            if memory:
                self._memories[client_id] = memory
            yield client_id, answer

    def _do(self, jobs: Sequence[Job], deadline: float | None) -> Iterator[tuple[int, Any]]:
        """Each job's place and result, as they come; a `Failure` where its worker died or was overdue."""
        todo: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        for item in enumerate(jobs):
            todo.put(item)
        done: queue.SimpleQueue[tuple[int, Any] | BaseException] = queue.SimpleQueue()
        for seat in self._seats[: len(jobs)]:
            threading.Thread(target=self._serve, args=(seat, todo, done), daemon=True).start()
        for _ in jobs:
            yield self._next(done, deadline)

    def _next(
        self, done: queue.SimpleQueue[tuple[int, Any] | BaseException], deadline: float | None
    ) -> tuple[int, Any]:
        """The next result; meanwhile ends workers that are past the deadline."""
        while True:
            if deadline is not None:  # also while results of others keep coming
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
        todo: queue.SimpleQueue[tuple[int, Job]],
        done: queue.SimpleQueue[tuple[int, Any] | BaseException],
    ) -> None:
        """One seat's thread: takes jobs until there are none left."""
        try:
            while True:
                place, job = todo.get_nowait()
                done.put((place, self._result(seat, job)))
        except queue.Empty:
            return
        except BaseException as error:
            done.put(error)

    def _result(self, seat: Seat, job: Job) -> Any:
        seat.busy_since, seat.overdue = time.monotonic(), False
        try:
            return job(seat.process)
        except (EOFError, OSError):
            failure = _death(seat, time.monotonic() - seat.busy_since)
            self._replace(seat)
            return failure
        except ProtocolError as error:
            self._replace(seat)
            return Failure("protocol", error.message)
        finally:
            seat.busy_since = None

    def _replace(self, seat: Seat) -> None:
        """A new process in a seat whose process died or cannot be understood; none when the engine closes."""
        seat.busy_since = None  # the deadline is the client's, not the start of the next process
        seat.process.end()
        if not self._closing:
            seat.process = WorkerProcess(self._run)
            seat.process.wait_until_open()


def _death(seat: Seat, seconds: float) -> Failure:
    if seat.overdue:
        return Failure("deadline", f"no reply within {seconds:.1f} s; its worker was terminated")
    return Failure("worker-died", f"the worker process ended with code {seat.process.exit_code()}")

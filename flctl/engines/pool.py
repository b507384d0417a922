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

from flctl.client.client_half import ClientHalf
from flctl.engines.engine import Engine, Lost
from flctl.engines.grouping import groups
from flctl.engines.opening import Opening
from flctl.engines.worker_process import WorkerProcess
from flctl.errors import ProtocolError
from flctl.types import ClientId, Failure, Gathered, IntArray, Outgoing, Reply, Request, Work
from flctl.wire import messages
from flctl.wire.shared_memory import SharedMemoryPool

if TYPE_CHECKING:
    from flctl.run.run import Run

POLL_SECONDS = 0.2
_FLOAT_BYTES = 4
_GAP_BYTES = 4096
"""Bytes for the gaps between a reply's vectors."""
Job = Callable[[WorkerProcess], Any]
"""Task of one worker: it serves a group of clients. Returns its result, or one `Failure` for all of them."""


@dataclass(slots=True)
class Seat:
    """One worker of the pool: its current process, and the time at which its current job began."""

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
        self._half = ClientHalf.of(run)
        self._sent_work: tuple[Work, bytes] | None = None
        self._shared_memory = SharedMemoryPool()
        self._seats = [Seat(WorkerProcess(Opening.of(run))) for _ in range(run.config.engine.workers)]
        try:
            for seat in self._seats:
                seat.process.wait_until_open()
            yield self
        finally:
            self._closing = True
            for seat in self._seats:
                seat.process.end()
            self._shared_memory.close()

    def clients(self) -> Sequence[ClientId]:
        return self._run.partition.client_ids

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        round_number = next((request.round for request in requests.values()), self._round)
        if round_number != self._round:  # memory is for a round's next phase, not for the next round
            self._round, self._memories = round_number, {}
        for sent in self._trained(requests, deadline):
            for client_id, vectors in sent.items():
                memory = self._memories.pop(client_id, b"")
                answer, memory = self._half.answer(client_id, requests[client_id], memory, vectors)
                if memory:
                    self._memories[client_id] = memory
                yield client_id, answer

    def _trained(
        self, requests: Mapping[ClientId, Request], deadline: float | None
    ) -> Iterator[Mapping[ClientId, Outgoing | Failure | None]]:
        """Yields the vectors of clients that train, as they come from the workers; None for each other client.

        The aggregator's client half, which may have keys, stays in this process: model code runs in the workers alone.
        """
        yield dict.fromkeys(client_id for client_id, request in requests.items() if request.work is None)
        working = {client_id: request for client_id, request in requests.items() if request.work is not None}
        work = next((request.work for request in working.values()), None)
        if work is None:
            return
        packed_work, pending = self._packed_work(work), groups(working)
        while pending:
            retries: list[list[ClientId]] = []
            jobs = [partial(self._ask, group, packed_work) for group in pending]
            for group_index, sent in self._run_jobs(jobs, deadline):
                group = pending[group_index]
                if not isinstance(sent, Failure):
                    yield dict(zip(group, sent, strict=True))
                elif len(group) > 1:
                    retries += [[client_id] for client_id in group]
                else:
                    yield {group[0]: sent}
            pending = retries

    def gather(
        self,
        work: Work,
        chunks: Sequence[IntArray],
        keep_individual: bool,  # noqa: FBT001
        deadline: float | None = None,
    ) -> Iterator[tuple[int, Gathered | Lost]]:
        row_bytes = _FLOAT_BYTES * sum(work.layout.values()) if keep_individual else 0
        jobs = [partial(self._gather, client_indices, row_bytes, self._packed_work(work)) for client_indices in chunks]
        for chunk_index, gathered in self._run_jobs(jobs, deadline):
            yield chunk_index, Lost(gathered) if isinstance(gathered, Failure) else gathered

    def _gather(
        self, client_indices: IntArray, row_bytes: int, packed_work: bytes, process: WorkerProcess
    ) -> Gathered | Failure:
        """Trains one chunk; `row_bytes` is the size of one client's vectors, 0 if only their sum is asked for."""
        capacity = row_bytes * len(client_indices) + _GAP_BYTES if row_bytes else 0
        return process.gather(
            client_indices,
            keep_individual=row_bytes > 0,
            work=packed_work,
            shared_block=self._shared_memory.take(capacity),
        )

    def _packed_work(self, work: Work) -> bytes:
        """Returns the cohort's work as bytes, packed once a round: later phases send the same bytes, or none."""
        if self._sent_work is None or self._sent_work[0] is not work:
            self._sent_work = (work, messages.pack_work(work))
        return self._sent_work[1]

    def _ask(self, group: Sequence[ClientId], packed_work: bytes, process: WorkerProcess) -> Any:
        return process.ask(group, packed_work)

    def _run_jobs(self, jobs: Sequence[Job], deadline: float | None) -> Iterator[tuple[int, Any]]:
        """Yields each job's index and result in order of completion; a `Failure` if its worker died or was overdue."""
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
                job_index, job = todo.get_nowait()
                done.put((job_index, self._result(seat, job)))
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
        """Starts a new process in a seat whose process died or sent invalid frames, unless the engine is closing."""
        seat.busy_since = None  # the deadline is the client's, not the start of the next process
        seat.process.end()
        if not self._closing:
            seat.process = WorkerProcess(Opening.of(self._run))
            seat.process.wait_until_open()


def _death(seat: Seat, seconds: float) -> Failure:
    if seat.overdue:
        return Failure("deadline", f"no reply within {seconds:.1f} s; its worker was terminated")
    return Failure("worker-died", f"the worker process ended with code {seat.process.exit_code()}")

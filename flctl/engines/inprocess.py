"""All clients in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flctl.engines.engine import Engine, Lost
from flctl.engines.grouping import groups
from flctl.errors import counted
from flctl.types import ClientId, Failure, Gathered, IntArray, Reply, Request, Work
from flctl.wire.replies import is_out_of_memory

if TYPE_CHECKING:
    from flctl.client.runtime import ClientRuntime
    from flctl.run.run import Run


class InProcessEngine(Engine):
    """Runs clients one after the other in this process; one past its deadline is left out, but not cut short."""

    name = "inprocess"
    gathers = True
    _runtime: ClientRuntime
    _memories: dict[ClientId, bytes]
    _round: int

    @contextmanager
    def open(self, run: Run) -> Iterator[InProcessEngine]:
        from flctl.client.runtime import ClientRuntime

        self._runtime, self._memories, self._round = ClientRuntime(run), {}, 0
        yield self

    def clients(self) -> Sequence[ClientId]:
        return self._runtime.run.partition.client_ids

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        for group in groups(requests):
            round_number = requests[group[0]].round
            if round_number != self._round:  # memory is for a round's next phase, not for the next round
                self._round, self._memories = round_number, {}
            started = time.monotonic()
            memories = [self._memories.pop(client_id, b"") for client_id in group]
            answers = self._runtime.answers(group, [requests[client_id] for client_id in group], memories)
            late = _late(started, deadline)
            for client_id, (answer, memory) in zip(group, answers, strict=True):
                if memory:
                    self._memories[client_id] = memory
                yield client_id, late or answer

    def gather(
        self,
        work: Work,
        chunks: Sequence[IntArray],
        keep_individual: bool,  # noqa: FBT001
        deadline: float | None = None,
    ) -> Iterator[tuple[int, Gathered | Lost]]:
        for chunk_index, client_indices in enumerate(chunks):
            started = time.monotonic()
            try:
                gathered = self._runtime.gather(client_indices, work, keep_individual)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield (
                    chunk_index,
                    Lost(Failure("memory", f"no memory for {counted(len(client_indices), 'client')} at once")),
                )
                continue
            late = _late(started, deadline)
            yield chunk_index, Lost(late) if late else gathered


def _late(started: float, deadline: float | None) -> Failure | None:
    late = deadline is not None and time.monotonic() - started > deadline
    return Failure("deadline", f"no reply within {deadline:g} s") if late else None

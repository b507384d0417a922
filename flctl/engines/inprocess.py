"""All clients in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flctl.engine import Engine
from flctl.types import ClientId, Failure, Reply, Request

if TYPE_CHECKING:
    from flctl.client import ClientRuntime
    from flctl.run import Run


class InProcessEngine(Engine):
    """Runs clients one after the other in this process; one past its deadline is left out, but not cut short."""

    name = "inprocess"
    _runtime: ClientRuntime
    _memories: dict[ClientId, bytes]
    _round: int

    @contextmanager
    def open(self, run: Run) -> Iterator[InProcessEngine]:
        from flctl.client import ClientRuntime

        self._runtime, self._memories, self._round = ClientRuntime(run), {}, 0
        yield self

    def clients(self) -> Sequence[ClientId]:
        return self._runtime.run.partition.client_ids

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        for client_id, request in requests.items():
            if request.round != self._round:  # memory is for a round's next phase, not for the next round
                self._round, self._memories = request.round, {}
            started = time.monotonic()
            answer, memory = self._runtime.answer(client_id, request, self._memories.pop(client_id, b""))
            if memory:
                self._memories[client_id] = memory
            late = deadline is not None and time.monotonic() - started > deadline
            yield client_id, Failure("deadline", f"no reply within {deadline:g} s") if late else answer

"""A local plugin: an engine in this process that records clients' messages as the server receives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import flctl
from flctl import ClientRuntime, Failure, Reply, Request, RunInfo

__all__ = ["RecordingEngine"]


class RecordingEngine(flctl.Engine):
    """Runs clients in this process, and keeps the last message of each in a file of `folder`."""

    name = "recording"

    class Config(flctl.Engine.Config):
        folder: str

    _runtime: ClientRuntime

    @contextmanager
    def open(self, run: RunInfo) -> Iterator[RecordingEngine]:
        self._runtime = ClientRuntime(run)  # type: ignore[arg-type]
        yield self

    def clients(self) -> Sequence[str]:
        return self._runtime.run.partition.client_ids

    def exchange(
        self, requests: Mapping[str, Request], deadline: float | None = None
    ) -> Iterator[tuple[str, Reply | Failure]]:
        ids = list(requests)
        answers = self._runtime.answers(ids, [requests[one] for one in ids], [b""] * len(ids))
        for client_id, (answer, _) in zip(ids, answers, strict=True):
            if isinstance(answer, Reply):
                (Path(self.config.folder) / client_id).write_bytes(answer.message)
            yield client_id, answer


@flctl.hookimpl
def flctl_engines() -> list[type[flctl.Engine]]:
    return [RecordingEngine]

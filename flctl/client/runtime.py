"""The client side of a run: work in, replies out. Every engine answers for its clients through `ClientRuntime`."""

from __future__ import annotations

from collections.abc import Sequence

from flctl.client.chunk_replies import ChunkReplies
from flctl.client.client_half import Answer, ClientHalf
from flctl.client.local_training import LocalTraining
from flctl.client.outgoing_updates import OutgoingUpdates
from flctl.client.prepared_updates import UpdatePreparation
from flctl.client.rows_at_clients import RowsAtClients
from flctl.executors.sequential import single_thread
from flctl.models.parts import Outline
from flctl.run.run import Run
from flctl.types import ClientId, Failure, Gathered, IntArray, Outgoing, Reply, Request, Work
from flctl.wire.buffers import HEAP, Allocator

__all__ = ["ClientRuntime"]


class ClientRuntime:
    """The model and each component's client half, ready to answer for any client of a run.

    Keeps nothing from one call to the next but buffers that each call overwrites.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from flctl.simulation.message_sizes import first_work
    >>> from flctl.testing.trial import Trial
    >>> folder = tempfile.TemporaryDirectory()
    >>> run, _ = Trial(Path(folder.name)).prepare()  # logistic regression on nine clients
    >>> runtime = ClientRuntime(run)
    >>> gathered = runtime.gather(np.array([0, 2]), first_work(run), keep_individual=True)
    >>> gathered.numbers.tolist(), gathered.examples.tolist(), gathered.vectors["delta"].shape
    ([2, 0], [10.0, 6.0], (2, 15))
    >>> folder.cleanup()
    """

    def __init__(self, run: Run) -> None:
        single_thread()
        self.run = run
        self.local = LocalTraining(run)
        preparation = UpdatePreparation(run, self.local)
        self._chunks = ChunkReplies(run, self.local, preparation)
        self._updates = OutgoingUpdates(run, preparation)
        self._rows = RowsAtClients(run)
        self._half = ClientHalf.of(run)

    @property
    def outline(self) -> Outline:
        """The outline of the model."""
        return self.local.outline

    def gather(
        self,
        client_indices: IntArray,
        work: Work,
        keep_individual: bool,  # noqa: FBT001
        allocator: Allocator = HEAP,
    ) -> Gathered:
        """Returns one reply for a chunk of clients.

        `client_indices` [K] are their indices in the partition. `keep_individual` asks for one row of vectors per
        client instead of their sum; `allocator` supplies the memory for the rows. Clients that fail are in the reply's
        `failed`. Raises MemoryError, or torch's error, if memory does not suffice for K clients at once.
        """
        return self._chunks.reply(client_indices, work, keep_individual=keep_individual, allocator=allocator)

    def outgoing(self, ids: Sequence[ClientId], work: Work) -> list[Outgoing | Failure]:
        """Returns each client's vectors for the aggregator's client half, a `Failure` for any exception.

        Clients train together. A worker process goes no further: the client half, which may have keys, is elsewhere.
        """
        return self._updates.outgoing(ids, work) if work.ask == "train" else self._rows.outgoing(ids, work)

    def answers(self, ids: Sequence[ClientId], requests: Sequence[Request], memories: Sequence[bytes]) -> list[Answer]:
        """Returns each client's answer, a `Failure` for any exception.

        All requests have the same work, or no work; clients with work train together.
        """
        work = requests[0].work
        sent: Sequence[Outgoing | Failure | None] = [None] * len(ids) if work is None else self.outgoing(ids, work)
        return [self._half.answer(*one) for one in zip(ids, requests, memories, sent, strict=True)]

    def answer(self, client_id: ClientId, request: Request, memory: bytes) -> Answer:
        """Returns one client's answer and the memory for its next request of the round; a `Failure` for any
        exception."""
        return self.answers([client_id], [request], [memory])[0]

    def reply(self, client_id: ClientId, request: Request, memory: bytes) -> tuple[Reply, bytes]:
        """Returns one client's reply and memory, and raises what the client's code raises."""
        sent = None if request.work is None else self._raising(client_id, request.work)
        return self._half.reply(client_id, request, memory, sent if isinstance(sent, Outgoing) else None)

    def _raising(self, client_id: ClientId, work: Work) -> Outgoing | Failure:
        return self._updates.trained(client_id, work) if work.ask == "train" else self._rows.sums(client_id, work)

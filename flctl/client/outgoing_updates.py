"""Vectors of single clients, trained and prepared, for the aggregator's client half in this or another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flctl.client.prepared_updates import PreparedUpdate, UpdatePreparation
from flctl.run.run import Run
from flctl.types import ClientId, Failure, IntArray, Outgoing, Work
from flctl.wire.replies import guarded, unguarded, weighted

__all__ = ["OutgoingUpdates"]


@dataclass(frozen=True, slots=True)
class OutgoingUpdates:
    """Trains clients and prepares their vectors: all that model code takes part in."""

    run: Run
    preparation: UpdatePreparation

    def outgoing(self, ids: Sequence[ClientId], work: Work) -> list[Outgoing | Failure]:
        """Returns each client's vectors, a `Failure` for any exception. The clients train together."""
        return [
            prepared if isinstance(prepared, Failure) else guarded(partial(self._weighted, prepared))
            for prepared in self.preparation.prepare_each(self._indices(ids), work)
        ]

    def trained(self, client_id: ClientId, work: Work) -> Outgoing | Failure:
        """Returns one client's vectors, and raises what the client's code raises."""
        prepared = self.preparation.prepare(self._indices([client_id]), work, unguarded)[0]
        return prepared if isinstance(prepared, Failure) else self._weighted(prepared)

    def _weighted(self, prepared: PreparedUpdate) -> Outgoing:
        return Outgoing(weighted(prepared.update, multiplied=self.run.multiplies), prepared.metrics)

    def _indices(self, ids: Sequence[ClientId]) -> IntArray:
        return np.array([self.run.partition.index(client_id) for client_id in ids], np.int64)

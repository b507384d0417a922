"""Turns local training into the updates that clients send: report, transforms, checks, memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flctl.algorithms.pipeline import check_memory
from flctl.client.local_training import LocalTraining
from flctl.errors import DivergenceError
from flctl.run.run import Run
from flctl.types import Arrays, ClientId, ClientUpdate, Failure, IntArray, Trained, Work
from flctl.wire.replies import check_update, guarded

__all__ = ["Guard", "PreparedUpdate", "UpdatePreparation"]

Guard = Callable[[Callable[[], Any]], Any]
"""Calls a function, and returns a Failure in place of an exception or lets it pass (`guarded`, `unguarded`)."""


@dataclass(frozen=True, slots=True)
class PreparedUpdate:
    """An update that is ready to send, with the client's training metrics and what it keeps until its next round."""

    update: ClientUpdate
    metrics: Mapping[str, float]
    memory: Arrays


@dataclass(frozen=True, slots=True)
class UpdatePreparation:
    """Trains clients, and prepares their updates one by one."""

    run: Run
    local: LocalTraining

    def prepare(self, client_indices: IntArray, work: Work, guard: Guard) -> list[PreparedUpdate | Failure]:
        """Returns each client's prepared update, and stores the memory of those that did not fail."""
        memory = self.local.memory(client_indices, work)
        ids = [self.run.partition.client_ids[int(index)] for index in client_indices]
        found: list[PreparedUpdate | Failure] = []
        for position, trained in enumerate(self.local.train_each(client_indices, work, memory)):
            own = {name: rows[position] for name, rows in memory.items()}
            found.append(guard(partial(self._finite, ids[position], trained, own, work)))
        kept = {
            int(index): prepared.memory
            for index, prepared in zip(client_indices, found, strict=True)
            if not isinstance(prepared, Failure)
        }
        self.local.remember(kept, work.round)
        return found

    def prepare_each(self, client_indices: IntArray, work: Work) -> list[PreparedUpdate | Failure]:
        """Returns the same, with a Failure for any exception. If the clients cannot train together, each trains alone,
        so that one client's failure is not another's."""
        found = guarded(lambda: self.prepare(client_indices, work, guarded))
        if not isinstance(found, Failure):
            return found
        if len(client_indices) == 1:
            return [found]
        return [self.prepare_each(client_indices[k : k + 1], work)[0] for k in range(len(client_indices))]

    def _finite(self, client_id: ClientId, trained: Trained | Failure, memory: Arrays, work: Work) -> PreparedUpdate:
        """Prepares an update; one of zeros in place of one that is not finite, if a transform bounds clients.

        Whether a client diverged depends on its data, so a client that is missing would reveal more than the bound
        allows for.
        """
        try:
            return self._prepared(client_id, trained, memory, work)
        except DivergenceError:
            if isinstance(trained, Failure) or not self.run.bounds_clients:
                raise
            unmoved = dataclasses.replace(self.local.unmoved, start=trained.start, personal=trained.personal)
            return self._prepared(client_id, unmoved, memory, work)

    def _prepared(self, client_id: ClientId, trained: Trained | Failure, memory: Arrays, work: Work) -> PreparedUpdate:
        if isinstance(trained, Failure):
            raise DivergenceError(trained.message)
        of_strategy = self.local.client_memory.of_strategy
        vectors, weight, remembered = self.run.strategy.report(trained, work, of_strategy(memory))
        check_memory(f"strategy '{self.run.strategy.name}'", remembered, of_strategy(self.run.memory_layout))
        update, kept = self.run.pipeline.send(ClientUpdate(client_id, vectors, weight), work, memory)
        check_update(update, work.layout)
        metrics = {"loss": trained.loss, "examples": float(trained.examples), "steps": float(trained.steps)}
        return PreparedUpdate(
            update=update,
            metrics={name: value for name, value in metrics.items() if not math.isnan(value)},
            memory={**remembered, **kept, **self.local.client_memory.private(trained)},
        )

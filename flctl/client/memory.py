"""Client memory as models and strategies read it, and the clients' own models that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import arrays
from flctl.client.memory_store import MemoryStore
from flctl.errors import FlctlError
from flctl.run.run import PRIVATE, Run
from flctl.types import Arrays, IntArray, Work

if TYPE_CHECKING:
    from flctl.types import Trained

__all__ = ["ClientMemory", "work_after"]

_READ_BYTES = 1 << 26
"""Bytes of client memory that are read at once if clients are used one by one."""


class ClientMemory:
    """Reads what the clients of a run remember. `begin` is the private side of the model that the run began with,
    which is what a client has of it before its first round."""

    def __init__(self, run: Run, store: MemoryStore, begin: Arrays) -> None:
        self.run, self.store, self._begin = run, store, begin

    def memory(self, client_indices: IntArray, work: Work) -> dict[str, Any]:
        """Returns the clients' memory before the round of `work`, name -> [K, length]; initial values for clients that
        never took part."""
        if not self.run.memory_layout:
            return {}
        memory, known = self.store.read(client_indices, work.round)
        for name, vector in {} if known.all() else self._first_memory(work).items():
            memory[name][~known] = vector
        return memory

    def of_strategy(self, memory: Mapping[str, Any]) -> dict[str, Any]:
        """Selects the strategy's part of a memory, or of its layout. The rest is the transforms' or private
        parameters."""
        others = self.run.pipeline.memory_layout
        return {name: part for name, part in memory.items() if name not in others and not name.startswith(PRIVATE)}

    def private(self, trained: Trained) -> dict[str, Any]:
        """Returns the private parameters of a client's own model, named as in its memory."""
        own = self.run.division.private_of(trained.personal) if trained.personal else {}
        return {PRIVATE + name: vector for name, vector in own.items()}

    def whole(self, work: Work, memory: Arrays) -> Arrays:
        """Returns the global model with clients' private parts in it, [K, L]; [L] if nothing is private."""
        division = self.run.division
        return division.whole(work.params, {name: memory[PRIVATE + name] for name in division.private})

    def personal(self, work: Work, memory: Arrays, count: int) -> Arrays:
        """Returns the own models [K, L] of `count` clients. Raises FlctlError if the strategy gives vectors of another
        layout."""
        whole, of_strategy = self.whole(work, memory), self.of_strategy(memory)
        models = [self._own_model(_row(whole, row), _row(of_strategy, row)) for row in range(count)]
        return {name: np.stack([model[name] for model in models]) for name in self.run.division.layout}

    def models(self, work: Work) -> Iterator[Arrays]:
        """Every client's own model, one after the other."""
        size = 4 * (sum(self.run.memory_layout.values()) + 2 * sum(self.run.division.layout.values()))
        step = max(1, _READ_BYTES // max(size, 1))
        for start in range(0, self.run.partition.clients, step):
            client_indices = np.arange(start, min(start + step, self.run.partition.clients))
            own = self.personal(work, self.memory(client_indices, work), len(client_indices))
            yield from (_row(own, row) for row in range(len(client_indices)))

    def model(self, work: Work, index: int) -> Arrays:
        """Returns the own model of the client with the index `index`."""
        client_indices = np.array([index])
        return _row(self.personal(work, self.memory(client_indices, work), 1), 0)

    def _own_model(self, params: Arrays, memory: Arrays) -> Arrays:
        model = self.run.strategy.personal(params, memory)
        wrong = arrays.misfit(model, self.run.division.layout)
        if wrong:
            raise FlctlError(f"strategy '{self.run.strategy.name}' sends clients a model with {wrong}")
        return model

    def _first_memory(self, work: Work) -> Arrays:
        first = self.run.strategy.first(work)
        layout = self.of_strategy(self.run.memory_layout)
        wrong = arrays.misfit(first, {name: layout[name] for name in first if name in layout})
        if wrong:
            raise FlctlError(f"strategy '{self.run.strategy.name}' initialises client memory with {wrong}")
        return {**first, **{PRIVATE + name: vector for name, vector in self._begin.items()}}


def work_after(run: Run, round_number: int, params: Arrays, strategy: Arrays) -> Work:
    """Returns the work that clients would be sent after round `round_number`, from the model and the strategy's state
    then; enough to compute their own models."""
    public, extra = run.division.public_of(params), run.strategy.broadcast(strategy)
    return Work(round_number + 1, public, extra, {}, run.config.local.amount(), run.update_layout)


def _row(vectors: Arrays, row: int) -> dict[str, Any]:
    """One client's vectors; those that are the same for all stay as they are."""
    return {name: vector[row] if vector.ndim == 2 else vector for name, vector in vectors.items()}

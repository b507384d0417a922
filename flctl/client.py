"""One request in, one reply out: what every engine runs for a client."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import arrays, seeds
from flctl.errors import DivergenceError, FlctlError
from flctl.memory import ClientMemory
from flctl.order import local_keys
from flctl.run import Run
from flctl.trainer import Trained, single_thread, train
from flctl.transform import ClientContext
from flctl.types import WEIGHT, Arrays, ClientId, ClientUpdate, Failure, Layout, Reply, Request, Work

if TYPE_CHECKING:
    import torch

__all__ = ["ClientRuntime"]

_LONGEST = 400


class ClientRuntime:
    """The client side of a run: the model, and each component's client half, ready to answer for any client.

    Nothing is kept from one client to the next but the model's buffer, which each request overwrites.
    """

    def __init__(self, run: Run) -> None:
        single_thread()
        self.run = run
        self.model = run.build_model()
        self.task = run.task()
        self.memory = ClientMemory(run.memory_directory)

    def answer(self, client_id: ClientId, request: Request, memory: bytes) -> tuple[Reply | Failure, bytes]:
        """The client's reply and the aggregator's memory for the round's next phase; a `Failure` for any exception."""
        try:
            return self.reply(client_id, request, memory)
        except DivergenceError as error:
            return Failure("non-finite", error.message), b""
        except FlctlError as error:
            return Failure("exception", error.message), b""
        except (Exception, SystemExit) as error:  # a client that calls sys.exit must not end the server
            return Failure("exception", _last_line(error)), b""

    def reply(self, client_id: ClientId, request: Request, memory: bytes) -> tuple[Reply, bytes]:
        """As `answer`, but raises what the client raises."""
        vector: Arrays | None = None
        metrics: Mapping[str, float] = {}
        if request.work is not None:
            update, metrics = self._work(client_id, request.work)
            vector = weighted(update, self.run.sums)
        ctx = self._context(client_id, request.round, "aggregator", {})
        memory, message = self.run.aggregator.client(memory, request.message or b"", vector, ctx)
        given = [type(part).__name__ for part in (memory, message)]
        if given != ["bytes", "bytes"]:
            name = self.run.aggregator.name
            raise FlctlError(f"aggregator '{name}' gave {' and '.join(given)}, expected memory and reply as bytes")
        return Reply(message, {} if self.run.aggregator.hides else metrics), memory

    def _work(self, client_id: ClientId, work: Work) -> tuple[ClientUpdate, Mapping[str, float]]:
        remembered = self.memory.read(client_id, work.round)
        trained = self._train(client_id, work, remembered)
        vectors, weight, remember = self.run.strategy.report(trained, work, remembered)
        update = ClientUpdate(client_id, vectors, weight)
        for name, transform in self.run.transforms.items():
            ctx = self._context(client_id, work.round, name, work.transforms.get(name, {}))
            update = transform.on_client(update, ctx)
        check_update(update, work.layout)
        wrong = arrays.misfit(remember)
        if wrong:
            raise FlctlError(f"strategy '{self.run.strategy.name}' wants to remember {wrong}")
        if remember:
            self.memory.write(client_id, work.round, remember)
        return update, {"loss": trained.loss, "examples": float(trained.examples), "steps": float(trained.steps)}

    def _train(self, client_id: ClientId, work: Work, memory: Arrays) -> Trained:
        x, y = self.run.partition.train(self.run.partition.index(client_id))
        self.model.load(work.params)
        key = local_keys(self.run.config.seed, work.round, np.array([client_id]))[0]
        adjust = None
        if self.run.strategy.adjusts:
            # Copies for each client: what one changes in place is gone before the next, in whatever process that is.
            tensor_work = dataclasses.replace(work, params=_tensors(work.params), extra=_tensors(work.extra))
            tensor_memory = _tensors(memory)

            def adjust(grad: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
                return self.run.strategy.adjust(grad, params, tensor_work, tensor_memory)

        return train(self.model, self.task, x, y, work.local, key, adjust)

    def _context(self, client_id: ClientId, number: int, component: str, broadcast: Arrays) -> ClientContext:
        names = ("round", number, "client", client_id, component)
        return ClientContext(number, client_id, broadcast, seeds.rng(self.run.config.seed, *names))


def weighted(update: ClientUpdate, sums: bool) -> Arrays:
    """The vector that an aggregator adds: w_k a_k where the server sums, a_k where it reads each; and the weight."""
    words = any(vector.dtype.kind in "iu" for vector in update.arrays.values())
    if sums and words and update.weight != int(update.weight):
        raise FlctlError(f"the update has integer vectors and the weight {update.weight}, expected a whole number")
    scaled = arrays.scale(update.arrays, update.weight) if sums else update.arrays
    return {**scaled, WEIGHT: np.array([update.weight], np.float64)}


def check_update(update: ClientUpdate, layout: Layout) -> None:
    """Raises FlctlError unless the update has the layout, DivergenceError unless it is finite."""
    wrong = arrays.misfit(update.arrays, layout)
    if wrong:
        raise FlctlError(f"the update has {wrong}")
    if not isinstance(update.weight, (int, float, np.number)) or not np.isfinite(update.weight) or update.weight < 0:
        raise FlctlError(f"the update's weight is {update.weight}, expected a finite number of at least 0")
    for name, vector in update.arrays.items():
        bad = vector.size - int(np.isfinite(vector).sum())
        if bad:
            raise DivergenceError(f"the update's vector '{name}' has {bad} of {vector.size} values NaN or infinite")


def _tensors(vectors: Arrays) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(np.array(vector)) for name, vector in vectors.items()}


def _last_line(error: BaseException) -> str:
    """The error in one line of at most 500 printable characters: it goes to terminals, logs and other processes."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    said = " ".join(str(error)[:_LONGEST].split())
    said = "".join(character if character.isprintable() else "?" for character in said)
    return f"{type(error).__name__}: {said}{where}"

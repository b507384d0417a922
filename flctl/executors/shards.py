"""The training rows of a chunk of clients, as executors read them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flctl.executors.batches import Arrangement, arrange
from flctl.partition.view import PartitionView
from flctl.seeds import Keys
from flctl.types import Batch, FloatArray, IntArray, LocalWork

__all__ = ["LocalJob", "Shards", "Stack"]


@dataclass(frozen=True, slots=True)
class LocalJob:
    """One client's local training: its rows x [n, ...] and y [n] or [n, window], the settings, the key of its batch
    order and of its module's randomness, and the largest number of steps."""

    x: npt.NDArray[np.generic]
    y: npt.NDArray[np.generic]
    local: LocalWork
    key: np.uint64
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """The batches of K clients side by side, in memory that torch allocated: a product over operands of another
    alignment may round differently.

    `x` [K, S * B, ...], `y` [K, S * B] and `share` [K, S * B], one over the batch's rows and 0 for padding, follow
    `arrangement.positions`. With class weights, `weight` [K, S * B] is each row's, and a factor of its share.
    """

    arrangement: Arrangement
    x: Tensor
    y: Tensor
    share: Tensor
    weight: Tensor | None = None

    def weigh(self, losses: Tensor, columns: slice) -> Tensor:
        """Returns the losses [a, B] of rows in `columns`, weighted by class if there are class weights."""
        return losses if self.weight is None else losses * self.weight[: len(losses), columns]


@dataclass(frozen=True)
class Shards:
    """The clients `clients` [K] of the partition, by index, each with the key [K] of its batch order. `loading` is
    entered while rows are read. `limits` [K]: largest number of steps of each. `class_weights` [K, classes]: factor of
    a row's loss by its class."""

    partition: PartitionView
    clients: IntArray
    keys: Keys
    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    limits: IntArray | None = None
    class_weights: FloatArray | None = None

    @cached_property
    def sizes(self) -> IntArray:
        """Training rows [K]."""
        return self.partition.train_sizes(self.clients)

    def one(self, position: int) -> Batch:
        """Returns the rows (x, y) of one client."""
        with self.loading():
            return self.partition.train(int(self.clients[position]))

    def job(self, position: int, local: LocalWork) -> LocalJob:
        """Returns the training of one client with the settings `local`."""
        x, y = self.one(position)
        return LocalJob(x, y, local, self.keys[position], self.limit(position))

    def limit(self, position: int) -> int | None:
        """Returns the largest number of steps of one client; None without a limit."""
        return None if self.limits is None else int(self.limits[position])

    def weights(self, position: int) -> Tensor | None:
        """Returns the class weights [classes] of one client; None without any."""
        return None if self.class_weights is None else torch.tensor(self.class_weights[position], dtype=torch.float32)

    def part(self, positions: slice) -> Shards:
        """Returns the clients at `positions`."""
        return replace(
            self,
            clients=self.clients[positions],
            keys=self.keys[positions],
            limits=None if self.limits is None else self.limits[positions],
            class_weights=None if self.class_weights is None else self.class_weights[positions],
        )

    def stack(self, local: LocalWork) -> Stack:
        """Returns all batches of all clients."""
        with self.loading():
            return self._stack(local)

    def _stack(self, local: LocalWork) -> Stack:
        arranged = arrange(self.sizes, local, self.keys, self.limits)
        starts = self.partition.train_starts(self.clients[arranged.clients])
        rows = (starts[:, None] + arranged.positions).reshape(-1)
        x, y = (torch.empty((len(rows), *shape), dtype=dtype) for shape, dtype in self._columns)
        self.partition.take(rows, (x.numpy(), y.numpy()))
        leading, share = arranged.positions.shape, torch.empty(arranged.positions.shape)
        share.numpy()[:] = arranged.shares()
        y = y.view(*leading, *y.shape[1:])
        weight = None
        if self.class_weights is not None:
            weight = torch.from_numpy(self.class_weights[arranged.clients]).float().gather(1, y)
            share *= weight
        return Stack(arranged, x.view(*leading, *x.shape[1:]), y, share, weight)

    @property
    def _columns(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """The shape of one row of x and of y, and their dtypes."""
        return [(part.shape[1:], part.dtype) for part in map(torch.from_numpy, self.partition.empty())]

"""The training rows of a chunk of clients, as executors read them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flctl.executors.batches import Arrangement, arrange
from flctl.partition.store import Partition
from flctl.seeds import Keys
from flctl.types import Batch, IntArray, LocalWork

__all__ = ["Shards", "Stack"]


@dataclass(frozen=True, slots=True)
class Stack:
    """The batches of K clients side by side, in memory that torch allocated: a product over operands of another
    alignment may round differently.

    `x` [K, S * B, ...], `y` [K, S * B] and `share` [K, S * B], one over the batch's rows and 0 for padding, follow
    `arrangement.positions`.
    """

    arrangement: Arrangement
    x: Tensor
    y: Tensor
    share: Tensor


@dataclass(frozen=True)
class Shards:
    """The clients `clients` [K] of the partition, by index, each with the key [K] of its batch order. `loading` is
    entered while rows are read. `limits` [K]: largest number of steps of each."""

    partition: Partition
    clients: IntArray
    keys: Keys
    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    limits: IntArray | None = None

    @cached_property
    def sizes(self) -> IntArray:
        """Training rows [K]."""
        bounds = self.partition.bounds[self.clients]
        return bounds[:, 1] - bounds[:, 0]

    def one(self, position: int) -> Batch:
        """Returns the rows (x, y) of one client."""
        with self.loading():
            return self.partition.train(int(self.clients[position]))

    def limit(self, position: int) -> int | None:
        """Returns the largest number of steps of one client; None without a limit."""
        return None if self.limits is None else int(self.limits[position])

    def stack(self, local: LocalWork) -> Stack:
        """Returns all batches of all clients."""
        with self.loading():
            return self._stack(local)

    def _stack(self, local: LocalWork) -> Stack:
        arranged = arrange(self.sizes, local, self.keys, self.limits)
        starts = self.partition.bounds[self.clients[arranged.clients], 0]
        rows = (starts[:, None] + arranged.positions).reshape(-1)
        x, y = (torch.empty((len(rows), *shape), dtype=dtype) for shape, dtype in self._columns)
        self.partition.take(rows, (x.numpy(), y.numpy()))
        leading, share = arranged.positions.shape, torch.empty(arranged.positions.shape)
        share.numpy()[:] = arranged.shares()
        return Stack(arranged, x.view(*leading, *x.shape[1:]), y.view(*leading, *y.shape[1:]), share)

    @property
    def _columns(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """The shape of one row of x and of y, and their dtypes."""
        return [(part.shape[1:], part.dtype) for part in map(torch.from_numpy, self.partition.empty())]

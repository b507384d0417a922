"""Batches: the rows of each local step, drawn by name for one client or for many at once, with the same result.

A client's order is a sort of 64-bit words that depend on (seed, round, client, epoch, row) and nothing else. So the
orders of a thousand clients are one array operation, and each is the same as if the client were alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.seeds import GOLDEN_GAMMA, Keys, client_keys, mix64, named_keys
from flctl.types import Allowance, IntArray, LocalWork

__all__ = [
    "Arrangement",
    "arrange",
    "batches",
    "local_keys",
    "module_seed",
    "most_steps",
    "orders",
    "stage_keys",
    "step_counts",
]


_LOW = np.uint64(0xFFFFFFFF)
_ALL = np.int64(1 << 62)
"""More steps than any client makes."""
_MODULE = np.uint64(1 << 63)
"""Beyond every (epoch, row) counter: the counter of the seed of a module's own randomness."""


def local_keys(seed: int, round_number: int, ids: npt.NDArray[np.str_]) -> Keys:
    """Returns the key [K] of each client's local training in round `round_number`."""
    return named_keys(seed, ("round", round_number, "local"), client_keys(ids))


def stage_keys(keys: Keys, stage: int) -> Keys:
    """Returns the keys [K] for a stage of the same clients' training; stage 0 has the clients' own keys."""
    with np.errstate(over="ignore"):
        return mix64(keys + mix64(np.array(_MODULE | np.uint64(stage)))) if stage else keys


def module_seed(key: np.uint64) -> int:
    """Returns the seed (63 bits) of the module's own randomness, such as dropout, in one client's training."""
    with np.errstate(over="ignore"):
        return int(mix64(key + mix64(np.array(_MODULE))) >> np.uint64(1))


def orders(keys: Keys, rows: IntArray, epoch: int) -> IntArray:
    """Returns a permutation of `range(rows[k])` for each client, [K, max(rows)]; entries beyond a client's rows are
    undefined.

    Rows are sorted by a word whose upper half is random and whose lower half is the row's index, so that words never
    tie and every sorting algorithm gives the same order. Rows per client are below 2^32.
    """
    width = int(rows.max(initial=0))
    row = np.arange(width, dtype=np.uint64)
    with np.errstate(over="ignore"):
        # splitmix64 in counter mode: (epoch, row) is the counter, so no order depends on how many numbers were drawn
        # before.
        counter = mix64((row | np.uint64(epoch << 32)) * GOLDEN_GAMMA + GOLDEN_GAMMA)
        words = mix64(keys[:, None] + counter)
    words = (words & ~_LOW) | row
    # Padding sorts behind every row: a row's lower half is below 2^32 - 1.
    words[row >= rows[:, None].astype(np.uint64)] = np.uint64(2**64 - 1)
    words.sort(axis=1)
    return (words & _LOW).astype(np.int64)


def step_counts(rows: IntArray, local: LocalWork, most: IntArray | None = None) -> tuple[IntArray, IntArray, IntArray]:
    """Returns (steps, batch size, rows used per epoch), each [K], for clients of `rows` [K]; at most `most` [K] steps.

    A batch size of 0 means all rows. The last batch of an epoch may be smaller; `drop_last` leaves it out (a shard
    smaller than a batch then makes no step). With `steps`, epochs are repeated until that number of batches is made,
    and `epochs` is ignored.
    """
    size = np.full_like(rows, local.batch_size) if local.batch_size else np.maximum(rows, 1)
    usable = rows - rows % size if local.drop_last else rows
    per_epoch = -(-usable // size)
    steps = local.epochs * per_epoch if local.steps is None else np.where(per_epoch > 0, local.steps, 0)
    return steps if most is None else np.minimum(steps, most), size, usable


def most_steps(allowance: Allowance | None, client_indices: IntArray) -> IntArray | None:
    """Returns the largest number of steps [K] for the clients `client_indices` [K]; None without an allowance. Clients
    that the allowance does not name make all steps."""
    if allowance is None:
        return None
    position = np.minimum(
        np.searchsorted(allowance.client_indices, client_indices), max(len(allowance.client_indices) - 1, 0)
    )
    if not len(allowance.client_indices):
        return np.full(len(client_indices), _ALL)
    return np.where(allowance.client_indices[position] == client_indices, allowance.steps[position], _ALL)


def batches(rows: int, local: LocalWork, key: np.uint64, most: int | None = None) -> Iterator[IntArray]:
    """Yields the rows of each local step of one client, in order: a new permutation for each epoch, cut into batches;
    at most `most` of them."""
    counts, limit = np.array([rows], np.int64), None if most is None else np.array([most], np.int64)
    (left,), (size,), (usable,) = (part.tolist() for part in step_counts(counts, local, limit))
    for epoch in range(math.ceil(left / max(-(-usable // size), 1))):
        order = orders(np.array([key]), counts, epoch)[0]
        for start in range(0, usable, size)[:left]:
            yield order[start : min(start + size, usable)]
        left -= -(-usable // size)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The batches of K clients side by side, the clients with the most steps first.

    `clients` [K]: position of each client in the order asked. `positions` [K, S * B]: the rows of client k's step s are
    at [s * B, s * B + counts[k, s]), the rest is padding (0). `counts` [K, S]. `steps` [K], descending. `width` is B.
    At step s the first `active[s]` clients train.
    """

    clients: IntArray
    positions: IntArray
    counts: IntArray
    steps: IntArray
    width: int

    @property
    def active(self) -> list[int]:
        """The number of clients that make step s, for each s; they are the first ones."""
        return [int(n) for n in (self.counts > 0).sum(axis=0)]

    def shares(self) -> npt.NDArray[np.float32]:
        """Returns [K, S * B]: one over the batch's size for rows, 0 for padding."""
        share = np.where(self.counts > 0, 1 / np.maximum(self.counts, 1), 0).astype(np.float32)
        inside = np.arange(self.width) < self.counts[:, :, None]
        return (share[:, :, None] * inside).reshape(self.positions.shape)


def arrange(rows: IntArray, local: LocalWork, keys: Keys, limits: IntArray | None = None) -> Arrangement:
    """Returns the batches that `batches` gives for each client, side by side; at most `limits` [K] of them."""
    steps, size, usable = step_counts(rows, local, limits)
    clients = np.lexsort((-rows, -steps))
    keys = keys[clients]
    rows, steps, size, usable = (part[clients] for part in (rows, steps, size, usable))
    most, width = int(steps.max(initial=0)), int(np.minimum(size, rows).max(initial=0))
    per_epoch = np.maximum(-(-usable // size), 1)
    step = np.arange(most)
    epoch, start = step // per_epoch[:, None], step % per_epoch[:, None] * size[:, None]
    counts = np.where(step < steps[:, None], np.minimum(size[:, None], usable[:, None] - start), 0)
    last = int(epoch[counts > 0].max(initial=-1))
    positions = _positions(_orders(keys, rows, last + 1), epoch, start, counts, width)
    return Arrangement(clients, positions, counts, steps, width)


def _orders(keys: Keys, rows: IntArray, epochs: int) -> IntArray:
    """Returns the orders of all epochs, [epochs, K, max(rows)]."""
    made = [orders(keys, rows, epoch) for epoch in range(epochs)]
    return np.stack(made) if made else np.zeros((0, len(rows), 0), np.int64)


def _positions(order: IntArray, epoch: IntArray, start: IntArray, counts: IntArray, width: int) -> IntArray:
    offset = np.arange(width)
    inside = offset < counts[:, :, None]
    column: Any = np.where(inside, start[:, :, None] + offset, 0)
    client = np.arange(len(counts))[:, None, None]
    found = order[np.where(counts > 0, epoch, 0)[:, :, None], client, column] if order.size else column
    return np.where(inside, found, 0).reshape(len(counts), -1)

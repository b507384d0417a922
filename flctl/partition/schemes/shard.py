"""Shards of rows sorted by label."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.errors import DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import class_codes, client_count, even_sizes
from flctl.types import IntArray

__all__ = ["Shard"]

SHARDS_PER_CLIENT = 2


class Shard(Partitioner):
    """Rows sorted by label, cut into shards, a few shards dealt to each client (McMahan et al. 2017, section 3).

    Without `shard_size` the shards use every row and differ by at most one (the paper: 200 of 300, 2 for each of
    100 clients). With `shard_size` and `shards_per_client` rows beyond K x shards are left out; with `shard_size`
    alone all shards are dealt, numbers differing by at most one, the last and smaller one only where
    `keep_incomplete`. A real-valued target is sorted by its value. Order within a label is random.
    """

    name = "shard"

    class Config(Options):
        shards_per_client: Annotated[
            int | None, Field(ge=1, description="Number of shards per client; null: 2, or all shards with --shard-size")
        ] = None
        shard_size: Annotated[int | None, Field(ge=1, description="Rows per shard")] = None
        keep_incomplete: Annotated[bool, Field(description="Also assign the last, smaller shard")] = True

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        count = client_count(rows, clients, self.name)
        sizes = self._shard_sizes(rows.count, count)
        per_client = even_sizes(len(sizes), count)
        holder = np.empty(len(sizes), np.int64)
        holder[rng.permutation(len(sizes))] = np.repeat(np.arange(count), per_client)
        owner = np.full(rows.count, -1, np.int64)
        owner[_sorted_rows(rows, rng)[: int(sizes.sum())]] = np.repeat(holder, sizes)
        return Assignment(owner, count)

    def _shard_sizes(self, rows: int, clients: int) -> IntArray:
        size, per_client = self.config.shard_size, self.config.shards_per_client
        if size is None:
            shards = clients * (per_client or SHARDS_PER_CLIENT)
            _refuse_few(rows, shards, f"{counted(shards, 'shard')} of at least one row")
            return even_sizes(rows, shards)
        if per_client is not None:
            _refuse_few(
                rows,
                clients * per_client * size,
                f"{clients} x {counted(per_client, 'shard')} of {counted(size, 'row')}",
            )
            return np.full(clients * per_client, size, np.int64)
        whole, rest = divmod(rows, size)
        sizes = [size] * whole + ([rest] if rest and self.config.keep_incomplete else [])
        if len(sizes) < clients:
            raise DataError(
                f"{counted(rows, 'row')} make {counted(len(sizes), 'shard')} of {size}; {counted(clients, 'client')} "
                "need one each",
                hint=f"The largest possible --shard-size is {rows // clients}.",
            )
        return np.asarray(sizes, np.int64)


def _refuse_few(rows: int, needed: int, what: str) -> None:
    if needed > rows:
        raise DataError(
            f"{what} need {counted(needed, 'row')}; there are {rows:,}",
            hint="Lower --clients, --shards-per-client or --shard-size.",
        )


def _sorted_rows(rows: Rows, rng: np.random.Generator) -> IntArray:
    """Rows sorted by label, or by a real-valued target; in random order where these are equal."""
    shuffled = rng.permutation(rows.count)
    real_valued = rows.labels is None and np.issubdtype(rows.target.dtype, np.floating) and rows.target.ndim == 1
    key = rows.target if real_valued else class_codes(rows, 2, Shard.name)[0]
    return shuffled[np.argsort(key[shuffled], kind="stable")]

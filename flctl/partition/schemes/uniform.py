"""Schemes that look at nothing but the row number."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import client_count, cut, even_sizes
from flctl.types import IntArray

__all__ = ["Iid", "Temporal"]


class Iid(Partitioner):
    """Rows at random, clients of equal size (McMahan et al. 2017, section 3).

    Sizes differ by at most one row.
    """

    name = "iid"

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        sizes = even_sizes(rows.count, client_count(rows, clients, self.name))
        return cut(rng.permutation(rows.count), sizes, rows.count)


class Temporal(Partitioner):
    """Contiguous blocks in row order, as data drift over time (Kairouz et al. 2021, section 3.1).

    Client 0 has the first rows. With `shuffle_within` = w the order is blurred first: no row moves by w places or
    more, so that neighbouring clients overlap in time.
    """

    name = "temporal"

    class Config(Options):
        shuffle_within: Annotated[int, Field(ge=0, description="Rows may move by fewer positions than this")] = 0

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        sizes = even_sizes(rows.count, client_count(rows, clients, self.name))
        return cut(self._order(rows.count, rng), sizes, rows.count)

    def _order(self, rows: int, rng: np.random.Generator) -> IntArray:
        order = np.arange(rows)
        window = self.config.shuffle_within
        if window < 2:
            return order
        return np.argsort(order + rng.random(rows) * window, kind="stable")

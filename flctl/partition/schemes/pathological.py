"""Each client sees only a few classes."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.errors import DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import by_class, class_codes, client_count
from flctl.partition.schemes.options import Bins
from flctl.types import IntArray

__all__ = ["Pathological"]

DRAW_CELLS = 1 << 22


class Pathological(Partitioner):
    """Rows of few classes for each client (Li et al. 2022, NIID-Bench, "quantity-based label imbalance").

    Each client holds `classes_per_client` classes (#C = k); a class's rows are divided evenly among the clients
    that hold it, and a class without a client is left out.

    `mode`: `first-deterministic` gives client k the class k mod C and draws the others, as the source does, so that
    no class is left out from C clients on; `deterministic` the classes k, k+1, ... mod C; `random` draws all. Only
    classes that occur count. A real-valued target counts by its quantile `bins`.
    """

    name = "pathological"

    class Config(Options):
        classes_per_client: Annotated[int, Field(ge=1, description="Number of classes per client")] = 2
        mode: Annotated[
            Literal["first-deterministic", "random", "deterministic"],
            Field(description="Choice of each client's classes"),
        ] = "first-deterministic"
        bins: Annotated[Bins, Field(description="Number of quantile bins of a real-valued target")] = 10

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        count = client_count(rows, clients, self.name)
        codes, classes = class_codes(rows, self.config.bins, self.name)
        order, totals = by_class(codes, classes, rng)
        present = np.flatnonzero(totals)
        self._refuse_few(len(present))
        held = present[self._choose(len(present), count, rng)]
        owner = np.full(rows.count, -1, np.int64)
        _deal_evenly(owner, order, totals, held, rng)
        return Assignment(owner, count)

    def _refuse_few(self, classes: int) -> None:
        if self.config.classes_per_client > classes:
            raise DataError(
                f"--classes-per-client is {self.config.classes_per_client}, and the data has "
                f"{counted(classes, 'class', 'classes')}",
                hint=f"Use --classes-per-client {classes} or fewer.",
            )

    def _choose(self, classes: int, clients: int, rng: np.random.Generator) -> IntArray:
        """The classes of each client, [K, k]."""
        width = self.config.classes_per_client
        first = np.arange(clients) % classes
        if self.config.mode == "deterministic":
            return (first[:, None] + np.arange(width)) % classes
        fixed = self.config.mode == "first-deterministic"
        # In blocks of clients, so that the keys of [K, C] never stand in memory together.
        step = max(1, DRAW_CELLS // classes)
        blocks = [_draw(first[i : i + step], classes, width, fixed=fixed, rng=rng) for i in range(0, clients, step)]
        return np.concatenate(blocks)


def _draw(first: IntArray, classes: int, width: int, rng: np.random.Generator, *, fixed: bool) -> IntArray:
    """`width` distinct classes for each client, uniformly; `fixed`: the one in `first` always among them."""
    keys = rng.random((len(first), classes))
    if fixed:
        keys[np.arange(len(first)), first] = -1.0
    return np.argsort(keys, axis=1)[:, :width]


def _deal_evenly(owner: IntArray, order: IntArray, totals: IntArray, held: IntArray, rng: np.random.Generator) -> None:
    """Writes to `owner`: each class's rows divided among its holders, sizes differing by at most one."""
    # Holders in random order, so that the clients with the one row more are not always the same.
    pairs = rng.permutation(held.size)
    classes, clients = held.ravel()[pairs], pairs // held.shape[1]
    by = np.argsort(classes, kind="stable")
    classes, clients = classes[by], clients[by]
    holders = np.bincount(classes, minlength=len(totals))
    rank = np.arange(len(classes)) - (np.cumsum(holders) - holders)[classes]
    counts = totals[classes] // holders[classes] + (rank < totals[classes] % holders[classes])
    is_held = np.repeat(holders > 0, totals)
    owner[order[is_held]] = np.repeat(clients, counts)

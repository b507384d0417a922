"""Label skew by Dirichlet draws: over the clients of each class, or over the classes of each client."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import Options
from flctl.errors import DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import (
    by_class,
    class_codes,
    client_count,
    deal_by_class,
    even_sizes,
    refuse_minimum,
    round_systematically,
    size_array,
)
from flctl.partition.schemes.options import Bins, Concentration, SizeList
from flctl.types import FloatArray, IntArray

__all__ = ["Dirichlet", "InnerDirichlet"]

ATTEMPTS, EASY_ATTEMPTS = 100, 10


class Dirichlet(Partitioner):
    """Each class divided among the clients by a draw of Dir_K(alpha) (Yurochkin et al. 2019, section 4).

    The label skew popularised by Hsu et al. 2019, section 3, whose own form fixes each client's size and draws
    over its classes (`inner-dirichlet`). `alpha`: one concentration, or one for each client; small is skewed, large
    tends to iid. `self_balancing` gives nothing more to a client that already has its n/K rows (Yurochkin et al.'s
    and NIID-Bench's code). A draw in which a client has fewer than `min_size` rows is drawn again, 100 times at
    most, and then refused; without it, of up to 10 draws the first without empty clients is taken, else the one
    with fewest. A real-valued target counts by its quantile `bins`.
    """

    name = "dirichlet"

    class Config(Options):
        alpha: Annotated[Concentration, Field(description="Concentration: smaller is more skewed")] = 0.5
        min_size: Annotated[int | None, Field(ge=0, description="Minimum number of rows per client")] = None
        self_balancing: Annotated[bool, Field(description="No more rows for clients that reached the mean size")] = (
            False
        )
        bins: Annotated[Bins, Field(description="Number of quantile bins of a real-valued target")] = 10

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        count = client_count(rows, clients, self.name)
        refuse_minimum(rows.count, count, self.config.min_size or 0)
        codes, classes = class_codes(rows, self.config.bins, self.name)
        alpha = _spread(self.config.alpha, count, "clients")
        order, totals = by_class(codes, classes, rng)
        if self.config.min_size is None:
            return deal_by_class(order, totals, self._fewest_empty(totals, alpha, rng))
        return deal_by_class(order, totals, self._with_minimum(totals, alpha, rng))

    def _with_minimum(self, totals: IntArray, alpha: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.int32]:
        smallest = -1
        for _ in range(ATTEMPTS):
            counts = self._draw(totals, alpha, rng)
            smallest = max(smallest, int(counts.sum(axis=0).min()))
            if smallest >= self.config.min_size:
                return counts
        raise DataError(
            f"none of {ATTEMPTS} draws gave every client {counted(self.config.min_size, 'row')}; "
            f"the smallest client of the best had {smallest}",
            hint="Raise --alpha, lower --min-size or --clients, or use --scheme inner-dirichlet (fixed sizes).",
        )

    def _fewest_empty(self, totals: IntArray, alpha: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.int32]:
        best = self._draw(totals, alpha, rng)
        for _ in range(EASY_ATTEMPTS - 1):
            if not _empty(best):
                break
            best = min(best, self._draw(totals, alpha, rng), key=_empty)
        return best

    def _draw(self, totals: IntArray, alpha: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.int32]:
        """Rows of each class for each client, [C, K]."""
        counts = np.zeros((len(totals), len(alpha)), np.int32)
        sizes = np.zeros(len(alpha), np.int64)
        for code in np.flatnonzero(totals):
            shares = rng.dirichlet(alpha)
            if self.config.self_balancing:
                shares = _masked(shares, sizes < totals.sum() / len(alpha))
            counts[code] = round_systematically(shares, int(totals[code]), rng)
            sizes += counts[code]
        return counts


def _empty(counts: npt.NDArray[np.int32]) -> int:
    return int(np.count_nonzero(counts.sum(axis=0) == 0))


class InnerDirichlet(Partitioner):
    """Each client's class mix drawn from Dir_C(alpha), its size fixed (Hsu et al. 2019, section 3; Acar et al. 2021).

    `alpha`: one concentration per class (Hsu et al.'s is this times the number of classes), or one for each class;
    `sizes`: rows of each client, or shares of all rows; equal without it. Clients are served in random order; when
    a class is used up, the rest of a client's rows come from the classes that are left in its own proportions, so
    that the last clients served depart most from their draw (as in Acar et al.'s code). Rows beyond the sizes are
    left out.
    """

    name = "inner-dirichlet"

    class Config(Options):
        alpha: Annotated[Concentration, Field(description="Concentration: smaller is more skewed")] = 0.5
        sizes: Annotated[SizeList | None, Field(description="Rows of each client, or fractions of all rows")] = None
        bins: Annotated[Bins, Field(description="Number of quantile bins of a real-valued target")] = 10

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        sizes = client_sizes(rows, clients, self.config.sizes, self.name)
        codes, classes = class_codes(rows, self.config.bins, self.name)
        alpha = _spread(self.config.alpha, classes, "classes")
        order, totals = by_class(codes, classes, rng)
        counts = draw_from_stock(rng.dirichlet(alpha, len(sizes)), sizes, totals, rng)
        return deal_by_class(order, totals, counts.T)


def client_sizes(rows: Rows, clients: int | None, sizes: SizeList | None, scheme: str) -> IntArray:
    """Rows of each client: the given sizes, else equal ones. Raises DataError where they do not fit the rows or
    the number of clients."""
    if sizes is None:
        return even_sizes(rows.count, client_count(rows, clients, scheme))
    if clients is not None and clients != len(sizes):
        raise DataError(
            f"found {counted(len(sizes), 'size')} for {counted(clients, 'client')}",
            hint="Use one size for each client, or leave out --clients.",
        )
    return size_array(sizes, rows.count)


def draw_from_stock(mixes: FloatArray, sizes: IntArray, stock: IntArray, rng: np.random.Generator) -> IntArray:
    """Rows of each class for each client [K, C]: multinomial draws from `mixes` [K, C] that never exceed `stock` [C].

    All clients draw at once and are served in random order; what a class could not give is drawn again from the
    classes that are left. Each pass uses up a class or ends, so there are at most C + 1.
    """
    queue = rng.permutation(len(sizes))
    counts = np.zeros(mixes.shape, np.int64)
    need, left = sizes.copy(), stock.copy()
    while need.any():
        waiting = queue[need[queue] > 0]
        wanted = np.cumsum(rng.multinomial(need[waiting], _open_mixes(mixes[waiting], left)), axis=0)
        granted = np.diff(np.minimum(wanted, left), axis=0, prepend=0)
        counts[waiting] += granted
        need[waiting] -= granted.sum(axis=1)
        left -= granted.sum(axis=0)
    return counts


def _open_mixes(mixes: FloatArray, left: IntArray) -> FloatArray:
    """Mixes over the classes that have rows left; a mix with nothing left follows what is left."""
    weights = np.where(left > 0, mixes, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), left / left.sum())


def _masked(shares: FloatArray, allowed: npt.NDArray[np.bool_]) -> FloatArray:
    """The shares of the allowed clients, scaled to sum to 1; equal ones where they have none."""
    kept = shares * allowed
    total = kept.sum()
    return np.asarray(kept / total if total > 0 else allowed / allowed.sum())


def _spread(alpha: float | tuple[float, ...], length: int, what: str) -> FloatArray:
    """The concentration vector. Raises DataError for a list of another length."""
    values = np.atleast_1d(np.asarray(alpha, np.float64))
    if len(values) not in {1, length}:
        raise DataError(
            f"alpha has {counted(len(values), 'value')} for {length} {what}",
            hint=f"Use one number, or one for each of the {what}.",
        )
    return np.resize(values, length)

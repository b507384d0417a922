"""Common parts of schemes: the number of rows of each client, and the choice of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flctl.errors import ConfigError, DataError, counted
from flctl.partition.partitioner import Assignment, Rows
from flctl.types import FloatArray, IntArray

__all__ = [
    "by_class",
    "class_codes",
    "client_count",
    "cut",
    "deal_by_class",
    "even_sizes",
    "quantile_codes",
    "quantile_edges",
    "refuse_minimum",
    "round_rows",
    "round_systematically",
    "size_array",
]


def client_count(rows: Rows, clients: int | None, scheme: str) -> int:
    """The number of clients asked for.

    Raises ConfigError where none was given and DataError where it is below 1 or above the number of rows.
    """
    if clients is None:
        raise ConfigError(f"scheme '{scheme}' needs a number of clients", hint="Add for example --clients 20.")
    if clients < 1:
        raise DataError(f"--clients is {clients}, expected at least 1", hint="Use --clients 1 or more.")
    if clients > rows.count:
        raise DataError(
            f"--clients is {clients}, but there are only {counted(rows.count, 'row')}",
            hint=f"Use --clients {rows.count} or fewer.",
        )
    return clients


def refuse_minimum(rows: int, clients: int, minimum: int) -> None:
    """Raises DataError where `clients` x `minimum` is more than the rows there are."""
    if clients * minimum > rows:
        raise DataError(
            f"a minimum of {counted(minimum, 'row')} for each of {counted(clients, 'client')} needs "
            f"{counted(clients * minimum, 'row')}; "
            f"there are {rows}",
            hint=f"The largest possible --min-size is {rows // clients}; or use fewer --clients.",
        )


def class_codes(rows: Rows, bins: int, scheme: str) -> tuple[IntArray, int]:
    """A class code for each row [n] and the number of classes; a real-valued target counts by its quantile bins.

    Raises DataError for data that has neither labels nor a real-valued target (text).
    """
    if rows.labels is not None:
        found = int(rows.labels.max()) + 1 if rows.count else 0
        return rows.labels, max(found, len(rows.classes))
    if rows.target.ndim == 1 and np.issubdtype(rows.target.dtype, np.floating):
        return quantile_codes(rows.target, bins)
    raise DataError(
        f"scheme '{scheme}' divides rows by their label, and these rows have none",
        hint="Use iid, temporal, or natural with --by COLUMN.",
    )


def quantile_codes(values: npt.NDArray[np.floating], bins: int) -> tuple[IntArray, int]:
    """The quantile bin of each value and the number of bins; ties share a bin, so there may be fewer than asked."""
    edges = quantile_edges(values, bins)
    return np.searchsorted(edges, values.astype(np.float64), side="right").astype(np.int64), len(edges) + 1


def quantile_edges(values: npt.NDArray[np.floating], bins: int) -> FloatArray:
    """The inner edges of the quantile bins; a value on an edge belongs to the bin above it. No two bins are alike,
    and none is empty."""
    inner = np.unique(np.quantile(values.astype(np.float64), np.arange(1, bins) / bins))
    return inner[inner > values.min()] if len(values) else inner[:0]


def by_class(codes: IntArray, classes: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """All rows sorted by class, in random order within a class, and the number of rows of each class."""
    shuffled = rng.permutation(len(codes))
    narrow = codes[shuffled].astype(np.uint16 if classes <= 1 << 16 else np.int64)
    return shuffled[np.argsort(narrow, kind="stable")], np.bincount(codes, minlength=classes)


def cut(order: IntArray, sizes: IntArray, rows: int) -> Assignment:
    """The rows of `order` cut into consecutive blocks, one for each client; rows beyond the blocks are left out."""
    owner = np.full(rows, -1, np.int64)
    owner[order[: int(sizes.sum())]] = np.repeat(np.arange(len(sizes)), sizes)
    return Assignment(owner, len(sizes))


def deal_by_class(order: IntArray, totals: IntArray, counts: npt.NDArray[np.integer]) -> Assignment:
    """Gives client k `counts[c, k]` rows of class c; `order` and `totals` as from `by_class`. The rest is left out."""
    owner = np.full(len(order), -1, np.int64)
    clients = np.arange(counts.shape[1])
    starts = np.cumsum(totals) - totals
    for start, row in zip(starts, counts, strict=True):
        owner[order[start : start + int(row.sum())]] = np.repeat(clients, row)
    return Assignment(owner, counts.shape[1])


def even_sizes(total: int, parts: int) -> IntArray:
    """`parts` sizes that sum to `total` and differ by at most one, the larger ones first."""
    sizes = np.full(parts, total // parts, np.int64)
    sizes[: total % parts] += 1
    return sizes


def size_array(sizes: Sequence[float], rows: int) -> IntArray:
    """Sizes in rows, from row numbers or from shares of all rows (rounded on their cumulative sum).

    Raises DataError where they sum to more than there are rows.
    """
    if all(isinstance(size, int) for size in sizes):
        result = np.asarray(sizes, np.int64)
    else:
        result = np.diff(np.rint(np.cumsum(sizes) * rows).astype(np.int64), prepend=0)
    if result.sum() > rows:
        raise DataError(
            f"the sizes sum to {counted(int(result.sum()), 'row')}; there are {rows:,}",
            hint="Use smaller sizes, or fractions such as 0.5,0.3,0.2.",
        )
    return result


def round_rows(expected: FloatArray, sizes: IntArray) -> IntArray:
    """`expected` [m, c] as integers whose rows sum to `sizes`: rounded down, then one more for the largest
    remainders (Hamilton's method; ties go to the lower index)."""
    floor = np.floor(expected).astype(np.int64)
    missing = sizes - floor.sum(axis=1)
    largest_first = np.argsort(floor - expected, axis=1, kind="stable")
    rank = np.empty_like(largest_first)
    np.put_along_axis(rank, largest_first, np.arange(expected.shape[1])[None, :], axis=1)
    return np.asarray(floor + (rank < missing[:, None]))


def round_systematically(shares: FloatArray, total: int, rng: np.random.Generator) -> IntArray:
    """`total` divided by `shares` (that sum to 1): each count is `share * total` rounded down or up, and equals
    it in expectation (systematic sampling, Madow 1949), so thousands of tiny shares are not all rounded to 0."""
    edges = np.floor(np.cumsum(shares) * total + rng.random()).astype(np.int64)
    edges[-1] = total
    return np.diff(np.minimum(edges, total), prepend=0)

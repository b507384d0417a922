"""Rows that occur more than once, byte for byte: across clients, and between train and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.types import IntArray

__all__ = ["Duplicates", "ValidationRows", "count_duplicates", "find_copies", "hash_rows"]

Column = npt.NDArray[Any]
Table = Sequence[Column]
"""Columns of equal length [n, ...] that together are one row, for example x and y."""
Words = npt.NDArray[np.uint64]

CHUNK_BYTES = 1 << 24
# SplitMix64's increment and finaliser (Steele et al. 2014, "Fast splittable pseudorandom number generators").
INCREMENT = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Exact copies, a row being its features and its target (missing equals missing, and 0 equals -0).

    `rows_across_clients`: rows of clients (training, validation, test) with a copy at another client;
    `groups_across_clients`: the number of different rows among these. `test_rows_in_train`: test rows, the clients'
    and the central ones, that have a copy among the training rows of any client: what leaks into the evaluation.
    `validation_rows_in_train`: the same of validation rows, which choose the best round.
    """

    rows_across_clients: int
    groups_across_clients: int
    test_rows_in_train: int
    validation_rows_in_train: int = 0


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """Validation rows [m], and the client of each [m], -1 for the source's own rows."""

    table: Table
    client: IntArray


def count_duplicates(
    table: Table,
    client: IntArray,
    is_test: npt.NDArray[np.bool_],
    central_test: Table | None = None,
    validation: ValidationRows | None = None,
) -> Duplicates:
    """Counts exact copies among rows whose client [n] and part [n] are given, central test rows and validation rows.

    Time and memory: one 64-bit hash a row, sorted; every pair with equal hashes is compared byte by byte, in
    chunks, so the columns may be memory maps.
    """
    held = None if validation is None else validation.table
    members, group = find_copies([table, *(one for one in (central_test, held) if one is not None)])
    central, held_back = (0 if one is None else len(one[0]) for one in (central_test, held))
    test = np.concatenate([is_test, np.ones(central, np.bool_), np.zeros(held_back, np.bool_)])[members]
    is_validation = members >= len(client) + central
    apart = np.full(central, -1)
    owner = np.concatenate([client, apart, *([] if validation is None else [validation.client])])[members]
    at_client = owner >= 0
    groups = int(group.max(initial=-1)) + 1
    across = _spans_clients(group[at_client], owner[at_client], groups)
    has_train = np.zeros(groups, np.bool_)
    has_train[group[~test & ~is_validation]] = True
    return Duplicates(
        rows_across_clients=int(np.count_nonzero(across[group[at_client]])),
        groups_across_clients=int(np.count_nonzero(across)),
        test_rows_in_train=int(np.count_nonzero(has_train[group] & test)),
        validation_rows_in_train=int(np.count_nonzero(has_train[group] & is_validation)),
    )


def _spans_clients(group: IntArray, client: IntArray, groups: int) -> npt.NDArray[np.bool_]:
    lowest = np.full(groups, np.iinfo(np.int64).max)
    highest = np.full(groups, -1, np.int64)
    np.minimum.at(lowest, group, client)
    np.maximum.at(highest, group, client)
    return np.asarray(lowest < highest)


def find_copies(tables: Sequence[Table]) -> tuple[IntArray, IntArray]:
    """The rows that have an exact copy, and a group number for each: equal rows have equal groups.

    Rows are numbered through all tables in turn. The tables must have the same columns.
    """
    hashes = np.concatenate([_hash_table(table) for table in tables])
    rows = np.arange(len(hashes))
    members: list[IntArray] = []
    groups: list[IntArray] = []
    found = 0
    # A second pass happens only where two different rows have one hash.
    while len(rows):
        rows, first = _same_hash(hashes, rows)
        same = _equal_rows(tables, rows, first)
        unequal, rows, first = rows[~same], rows[same], first[same]
        _, group, size = np.unique(first, return_inverse=True, return_counts=True)
        several = (size > 1)[group]
        renumber = np.cumsum(size > 1) - 1
        members.append(rows[several])
        groups.append(renumber[group[several]] + found)
        found += int(np.count_nonzero(size > 1))
        rows = unequal
    return np.concatenate([*members, np.empty(0, np.int64)]), np.concatenate([*groups, np.empty(0, np.int64)])


def _same_hash(hashes: Words, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Those of `rows` that share their hash with another of them, and for each the first row that has it."""
    order = rows[np.argsort(hashes[rows], kind="stable")]
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    size = np.diff(np.append(starts, len(order)))
    several = np.repeat(size > 1, size)
    return order[several], np.repeat(order[starts], size)[several]


def _equal_rows(tables: Sequence[Table], left: IntArray, right: IntArray) -> npt.NDArray[np.bool_]:
    """True if row `left[i]` equals row `right[i]`, compared in chunks."""
    equal = np.asarray(left == right)
    width = sum(column[:1].nbytes for column in tables[0])
    todo = np.flatnonzero(~equal)
    for part in _chunks(len(todo), width):
        index = todo[part]
        a, b = _gather(tables, left[index]), _gather(tables, right[index])
        pairs = [(x == y).all(axis=1) for x, y in zip(a, b, strict=True)]
        equal[index] = np.logical_and.reduce(pairs)
    return equal


def _gather(tables: Sequence[Table], rows: IntArray) -> list[Words]:
    """The given rows' columns as words, whichever table they are in."""
    starts = np.cumsum([0] + [len(table[0]) for table in tables])
    result: list[Words] = []
    for column_index, column in enumerate(tables[0]):
        words = np.empty((len(rows), _word_count(column)), np.uint64)
        for table_index, table in enumerate(tables):
            here = (rows >= starts[table_index]) & (rows < starts[table_index + 1])
            words[here] = _words(table[column_index][rows[here] - starts[table_index]])
        result.append(words)
    return result


def hash_rows(column: Column, position: int = 0) -> Words:
    """A 64-bit hash of each row of `column` [n, ...]; `position` tells columns of one table apart.

    The sum over a row's 8-byte words of mix(word + place's own constant), modulo 2^64. Rows that are equal (missing
    equals missing, 0 equals -0) have equal hashes; it is not meant to withstand somebody who wants a collision,
    so callers also compare the rows.
    """
    hashes = np.zeros(len(column), np.uint64)
    words = _word_count(column)
    salts = _mix(np.arange(1, words + 1, dtype=np.uint64) * INCREMENT + np.uint64(position) * FIRST)
    for part in _chunks(len(column), words * 8):
        # Wrapping is what a sum modulo 2^64 is.
        hashes[part] = _mix(_words(column[part]) + salts).sum(axis=1, dtype=np.uint64)
    return hashes


def _hash_table(table: Table) -> Words:
    total = np.zeros(len(table[0]), np.uint64)
    for position, column in enumerate(table):
        total += hash_rows(column, position)
    return total


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * FIRST
    words = (words ^ (words >> np.uint64(27))) * SECOND
    return words ^ (words >> np.uint64(31))


def _word_count(column: Column) -> int:
    return max(1, -(-column[:1].dtype.itemsize * int(np.prod(column.shape[1:])) // 8))


def _words(rows: Column) -> Words:
    """Rows as 8-byte words [n, w], the last one filled up with zeros."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), int(np.prod(rows.shape[1:])))
    if np.issubdtype(flat.dtype, np.floating):
        # One bit pattern for every zero and every missing value.
        flat = np.where(np.isnan(flat), np.asarray(np.nan, flat.dtype), flat + np.zeros(1, flat.dtype))
    words = np.zeros((len(flat), _word_count(rows)), np.uint64)
    if flat.size:
        words.view(np.uint8)[:, : flat.dtype.itemsize * flat.shape[1]] = flat.view(np.uint8)
    return words


def _chunks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))

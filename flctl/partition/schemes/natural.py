"""Clients as the data have them: people, sites, stations, roles."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import Options
from flctl.data.preprocessing import ABSENT
from flctl.errors import ConfigError, DataError, counted
from flctl.partition.duplicates import hash_rows
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import even_sizes
from flctl.types import IntArray

__all__ = ["GroupedNatural", "Natural"]

Missing = Annotated[Literal["refuse", "client", "leave-out"], Field(description="Treatment of rows without a value")]
INTEGER = re.compile(r"-?\d+")


class Natural(Partitioner):
    """One client for each value of the column that `--by` names (Caldas et al. 2018, LEAF).

    Clients are called by their values, in numeric order where all are integers, else in order of text. Values
    with fewer than `min_size` rows are left out; `top` keeps the values with most rows. Rows without a value are
    a client of their own called "(missing)", are left out, or are refused, as `missing_group` says.
    """

    name = "natural"
    sets_clients: ClassVar[bool] = True

    class Config(Options):
        min_size: Annotated[int, Field(ge=1, description="Values with fewer rows are left out")] = 1
        top: Annotated[int | None, Field(ge=1, description="Number of values to keep, those with the most rows")] = None
        missing_group: Missing = "client"

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        names, codes = natural_groups(rows, self.name, self.config.missing_group)
        kept = self._kept(names, np.bincount(codes[codes >= 0], minlength=len(names)))
        if clients is not None and clients != len(kept):
            raise DataError(
                f"--clients is {clients}, and the column has {counted(len(kept), 'usable value')}",
                hint="Leave out --clients, keep the largest with --top N, or merge with --scheme grouped-natural.",
            )
        renumber = np.full(len(names) + 1, -1, np.int64)  # The last stands for -1.
        renumber[kept] = np.arange(len(kept))
        return Assignment(renumber[codes], len(kept), tuple(names[i] for i in kept))

    def _kept(self, names: list[str], sizes: IntArray) -> IntArray:
        large = np.flatnonzero(sizes >= self.config.min_size)
        if not len(large):
            raise DataError(
                f"no value of {len(names)} has {counted(self.config.min_size, 'row')}; "
                f"the largest has {sizes.max(initial=0)}",
                hint=f"The largest possible --min-size is {sizes.max(initial=0)}.",
            )
        if self.config.top is None:
            return large
        return np.sort(large[np.argsort(-sizes[large], kind="stable")][: self.config.top])


class GroupedNatural(Partitioner):
    """Several values of the `--by` column for each client (flwr-datasets, GroupedNaturalIdPartitioner).

    Set `group_size` values for each client, or a number of clients, among which the values are spread evenly. The
    values are grouped in random order, or in their own (numeric, else text) without `shuffle`. `mode` is the
    treatment of the last, incomplete group: `allow-smaller` keeps it, `allow-bigger` spreads it over the others,
    `drop-remainder` leaves it out, `strict` refuses.
    """

    name = "grouped-natural"
    sets_clients: ClassVar[bool] = True

    class Config(Options):
        group_size: Annotated[int | None, Field(ge=1, description="Number of values per client")] = None
        mode: Annotated[
            Literal["allow-smaller", "allow-bigger", "drop-remainder", "strict"],
            Field(description="Treatment of an incomplete group"),
        ] = "allow-smaller"
        shuffle: Annotated[bool, Field(description="Group values in random order")] = True
        missing_group: Missing = "client"

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        names, codes = natural_groups(rows, self.name, self.config.missing_group)
        members = self._members(len(names), clients)
        order = rng.permutation(len(names)) if self.config.shuffle else np.arange(len(names))
        client_of = np.full(len(names) + 1, -1, np.int64)  # The last stands for -1.
        client_of[order[: int(members.sum())]] = np.repeat(np.arange(len(members)), members)
        return Assignment(client_of[codes], len(members))

    def _members(self, values: int, clients: int | None) -> IntArray:
        """Number of values of each client."""
        size = self.config.group_size
        if (size is None) == (clients is None):
            raise ConfigError(
                "scheme 'grouped-natural' needs either a group size or a number of clients",
                hint="Use --group-size 5 or --clients 20, not both.",
            )
        flag, needed = ("--clients", clients) if clients is not None else ("--group-size", size)
        if needed is not None and not 1 <= needed <= values:
            raise DataError(
                f"{flag} is {needed}, and the column has {counted(values, 'value')}",
                hint=f"Use 1 to {values}.",
            )
        return even_sizes(values, clients) if clients is not None else self._grouped(values, size or 1)

    def _grouped(self, values: int, size: int) -> IntArray:
        groups, rest = divmod(values, size)
        if rest and self.config.mode == "strict":
            raise DataError(
                f"{counted(values, 'value')} cannot be divided into groups of {size}: the remainder is {rest}",
                hint="Choose a divisor, or another --mode.",
            )
        if self.config.mode == "allow-bigger":
            return even_sizes(values, groups)
        smaller = [rest] if rest and self.config.mode == "allow-smaller" else []
        return np.array([size] * groups + smaller, np.int64)


def natural_groups(rows: Rows, scheme: str, missing: str) -> tuple[list[str], IntArray]:
    """The values of the `--by` column in order, and each row's index among them (-1: left out).

    Raises ConfigError without a column, DataError for missing values that are refused.
    """
    if rows.group is None:
        raise ConfigError(
            f"scheme '{scheme}' needs a column that identifies each row's client",
            hint="Add for example --by station.",
        )
    column = np.char.strip(np.asarray(rows.group, np.str_)) if rows.count else np.empty(0, np.str_)
    blank = (column == "") | (column == ABSENT)
    if rows.incomplete is not None and missing != "client":
        blank |= rows.incomplete
    count = int(np.count_nonzero(blank))
    if count and missing == "refuse":
        raise DataError(
            f"{count} of {counted(rows.count, 'row')} without a value in a --by column",
            hint="Use --missing-group leave-out, or --missing-group client to make them a separate client.",
        )
    if count and missing == "client":
        column, blank = np.where(blank, ABSENT, column), np.zeros(len(column), bool)
    names, inverse = _factorise(column[~blank])
    codes = np.full(rows.count, -1, np.int64)
    codes[~blank] = inverse
    if not names:
        raise DataError("the --by column has no values", hint="Use another column.")
    return names, codes


def _factorise(column: npt.NDArray[np.str_]) -> tuple[list[str], IntArray]:
    """The distinct values in order, and each row's index among them."""
    # By 64-bit hash and then compared: sorting millions of strings takes ten times as long.
    _, first, inverse = np.unique(hash_rows(column), return_index=True, return_inverse=True)
    names = column[first]
    if not np.array_equal(names[inverse], column):
        names, inverse = np.unique(column, return_inverse=True)
    numeric = all(INTEGER.fullmatch(name) for name in names.tolist())
    order = sorted(range(len(names)), key=lambda i: (int(names[i]) if numeric else 0, str(names[i])))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return [str(names[i]) for i in order], rank[inverse]

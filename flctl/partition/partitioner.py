"""Base class of partition schemes, which assign rows to clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from flctl.component import Component
from flctl.types import Batch, IntArray

__all__ = ["Assignment", "Partitioner", "Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Input of a scheme: the number of rows, their targets, and the column that `--by` named.

    `labels` are int64 codes 0..len(classes)-1 (None for regression and text); `target` is the raw y; `group` is a
    string per row, or None; `x` are the raw features; `numeric` the indices of those that are numbers (None: all).
    `incomplete` marks rows without a value in one of several `--by` columns.
    """

    count: int
    target: npt.NDArray[Any]
    labels: IntArray | None = None
    classes: tuple[str, ...] = ()
    group: npt.NDArray[Any] | None = None
    x: npt.NDArray[Any] | None = None
    numeric: tuple[int, ...] | None = None
    incomplete: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """`owner` [n] int64 is each row's client (0..clients-1), or -1 for a row that the scheme leaves out.

    `client_ids` are the names of the clients in order; None stands for "0".."K-1".
    """

    owner: IntArray
    clients: int
    client_ids: tuple[str, ...] | None = None


class Partitioner(Component):
    """A scheme: deterministic given the generator; its source (paper, equation) is on the docstring's first lines.

    `alters_test`: `alter` applies to test rows too, as a client's instrument does and label noise does not.
    `sets_clients`: the number of clients follows from the data or from an option, so that no default applies.

    >>> import numpy as np
    >>> import flctl
    >>> class RoundRobin(flctl.Partitioner):
    ...     name = "round-robin"
    ...     def assign(self, rows, clients, rng):
    ...         return flctl.Assignment(np.arange(rows.count) % clients, clients)
    >>> RoundRobin().assign(flctl.Rows(5, np.zeros(5)), 2, flctl.rng(0, "example")).owner.tolist()
    [0, 1, 0, 1, 0]
    """

    alters_test: ClassVar[bool] = True
    sets_clients: ClassVar[bool] = False

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        """Returns the owner of each row. `clients` is the number that the user asked for; None if no number was named
        (natural schemes).

        Raises DataError if the request is impossible (more clients than rows, a minimum that cannot be met).
        """
        raise NotImplementedError

    def alter(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], client: int, clients: int, rng: np.random.Generator
    ) -> Batch:
        """One client's rows as that client sees them (feature skew, label noise); the identity by default.

        Called after `assign` with the client's train rows and, where `alters_test`, with its test rows, which may
        be none; dtype and shape must stay.
        """
        return x, y

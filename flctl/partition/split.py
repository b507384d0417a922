"""Order of rows in the store: by client, training rows before test rows; validation rows apart from both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from flctl.errors import DataError, PluginError, counted
from flctl.partition.partitioner import Assignment
from flctl.types import FloatArray, IntArray

__all__ = ["Drawn", "SplitPlan", "check_assignment", "hold_back", "plan", "plan_own", "test_counts"]


Drawn = Literal["random", "last"]
"""Choice of the rows that a client holds out: at random, or its last rows."""
Mode = Literal["random", "last", "own"]
"""Choice of a client's test rows: at random, its last rows, or those that the source itself holds out."""
MAX_ID = 256
MAX_DENOMINATOR = 1_000_000


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """`order` [m]: the source row of each stored row. `bounds` [K, 3]: each client's start, end of training rows,
    end. `client_ids` [K]: text. `left_out`: rows without an owner.

    `validation` [v]: the source rows that clients hold back for validation, by client; `validation_bounds` [K + 1]:
    client k has those from entry k to entry k + 1.
    """

    order: IntArray
    bounds: IntArray
    client_ids: npt.NDArray[np.str_]
    left_out: int
    validation: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    validation_bounds: IntArray | None = None


def plan(assignment: Assignment, rows: int, test_fraction: float, mode: Mode, rng: np.random.Generator) -> SplitPlan:
    """The stored order. A client's test rows are drawn at random (`mode` random) or are its last rows (`last`);
    both parts keep the order of the source.

    Raises PluginError if the scheme broke its contract, DataError if no row is left.
    """
    client_ids = check_assignment(assignment, rows)
    owned = np.flatnonzero(assignment.owner >= 0)
    order = owned[_stable_order(assignment.owner[owned], assignment.clients)]
    sizes = np.bincount(assignment.owner[order], minlength=assignment.clients)
    held_out = test_counts(sizes, test_fraction)
    ends = np.cumsum(sizes)
    bounds = np.stack([ends - sizes, ends - held_out, ends], axis=1).astype(np.int64)
    if not len(order):
        raise DataError("the scheme leaves out every row", hint="Loosen the scheme's limits.")
    if mode == "random" and held_out.any():
        order = _test_rows_last(order, bounds, rng.random(rows)[order])
    return SplitPlan(order, bounds, client_ids, rows - len(order))


def plan_own(assignment: Assignment, rows: int, trained: int) -> SplitPlan:
    """The stored order of `rows` rows of which those from `trained` on are their owners' test rows.

    Raises what `plan` raises.
    """
    client_ids = check_assignment(assignment, rows)
    owned = np.flatnonzero(assignment.owner >= 0)
    order = owned[_stable_order(assignment.owner[owned], assignment.clients)]
    sizes = np.bincount(assignment.owner[order], minlength=assignment.clients)
    held_out = np.bincount(assignment.owner[owned[owned >= trained]], minlength=assignment.clients)
    ends = np.cumsum(sizes)
    bounds = np.stack([ends - sizes, ends - held_out, ends], axis=1).astype(np.int64)
    return SplitPlan(order, bounds, client_ids, rows - len(order))


def hold_back(planned: SplitPlan, fraction: float, mode: Drawn, rng: np.random.Generator) -> SplitPlan:
    """Returns the plan with a fraction of each client's training rows held back for validation.

    Their number follows `test_counts`: at least one row stays for training. They are drawn at random or are the last
    training rows. Test rows stay as they are, and all parts keep the order of the source.
    """
    start, train_end, end = planned.bounds.T
    sizes = end - start
    client, position = np.repeat(np.arange(len(sizes)), sizes), np.arange(len(planned.order))
    is_train = position < train_end[client]
    held = test_counts(train_end - start, fraction)
    held_back = np.zeros(len(position), np.bool_)
    key = position if mode == "last" else rng.random(len(position) + planned.left_out)[planned.order]
    # By client, training rows by ascending key, then test rows: the held back are the last of the training rows.
    ranked = np.lexsort((key, ~is_train, client))
    held_back[ranked[is_train[ranked] & (position >= (train_end - held)[client])]] = True
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(held)])
    bounds = planned.bounds - np.stack([before[:-1], before[1:], before[1:]], axis=1)
    kept, validation = planned.order[~held_back], planned.order[held_back]
    return replace(planned, order=kept, bounds=bounds, validation=validation, validation_bounds=before)


def test_counts(sizes: IntArray, test_fraction: float) -> IntArray:
    """Test rows [K] of clients with `sizes` [K] rows: test_fraction x rows to the nearest integer, halves up.

    At least one row stays for training, unless the fraction is 1. The fraction counts as a ratio of integers, 0.29 as
    29/100, so that the result is exact.
    """
    if test_fraction == 1:
        return sizes.astype(np.int64)
    ratio = Fraction(test_fraction).limit_denominator(MAX_DENOMINATOR)
    nearest = (2 * sizes * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)
    return np.minimum(nearest, np.maximum(sizes - 1, 0)).astype(np.int64)


def check_assignment(assignment: Assignment, rows: int) -> npt.NDArray[np.str_]:
    """The ids of the clients as an array. Raises PluginError for an assignment that is not one."""
    owner, clients = assignment.owner, assignment.clients
    if owner.shape != (rows,) or owner.dtype.kind != "i":
        raise PluginError(f"the scheme returned owners {owner.dtype} {owner.shape}, expected integers ({rows},)")
    if clients < 1 or (rows and (int(owner.min()) < -1 or int(owner.max()) >= clients)):
        raise PluginError(f"the scheme returned an owner outside -1..{clients - 1}")
    if assignment.client_ids is None:
        return np.arange(clients).astype(f"<U{len(str(clients - 1))}")
    return _checked_ids(assignment.client_ids, clients)


def _checked_ids(client_ids: tuple[str, ...], clients: int) -> npt.NDArray[np.str_]:
    if len(client_ids) != clients or len(set(client_ids)) != clients:
        raise PluginError(
            f"the scheme returned {counted(len(set(client_ids)), 'different id')} for {counted(clients, 'client')}"
        )
    for client_id in client_ids:
        if not client_id or len(client_id) > MAX_ID or "\0" in client_id:
            raise DataError(
                f"a client cannot have the id {client_id[:60]!r} of {counted(len(client_id), 'character')}",
                hint=f"Ids have 1 to {counted(MAX_ID, 'character')}; use another --by column.",
            )
    return np.array(client_ids, np.str_)


def _stable_order(owner: IntArray, clients: int) -> npt.NDArray[np.intp]:
    """A stable argsort by owner: a radix sort where owners fit 16 bits."""
    small = owner.astype(np.uint16) if clients <= 1 << 16 else owner
    return np.argsort(small, kind="stable")


def _test_rows_last(order: IntArray, bounds: IntArray, key: FloatArray) -> IntArray:
    """Moves each client's test rows, those of the largest keys, behind its others without reordering either."""
    sizes = bounds[:, 2] - bounds[:, 0]
    client = np.repeat(np.arange(len(bounds)), sizes)
    ranked = np.lexsort((key, client))
    is_test = np.zeros(len(order), np.bool_)
    is_test[ranked[np.arange(len(order)) >= np.repeat(bounds[:, 1], sizes)]] = True
    # A row's new position: its client's start of that part, and the number of rows of its kind before it.
    tests_before: IntArray = np.cumsum(is_test) - is_test
    first_test = np.concatenate([np.zeros(1, np.int64), np.cumsum(bounds[:, 2] - bounds[:, 1])])[:-1]
    test_rank = tests_before - first_test[client]
    train_rank = np.arange(len(order)) - bounds[client, 0] - test_rank
    position = np.where(is_test, bounds[client, 1] + test_rank, bounds[client, 0] + train_rank)
    moved = np.empty_like(order)
    moved[position] = order
    return moved

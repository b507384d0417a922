"""The sums over clients' rows that a run can ask for, the same on the server and on the clients."""

from __future__ import annotations

import math

from flctl.algorithms.run_info import RunInfo
from flctl.errors import IncompatibleError, counted
from flctl.evaluation.column_sums import BITS, ColumnSums
from flctl.evaluation.row_sums import MOST_CLASSES, RowSums
from flctl.evaluation.whole_sums import WholeSums
from flctl.metrics import positive_code

__all__ = ["code_of", "column_sums", "row_sums"]

_BITS = 128
"""Bits of a sum over rows: 2^24 fractions of losses up to 2^64, of all clients."""


def row_sums(run: RunInfo) -> RowSums:
    """Returns the sums by which a run's model is evaluated at its clients. Raises IncompatibleError for too many
    classes."""
    partition = run.partition
    classes = 0 if partition.task == "regression" else len(partition.classes)
    if classes > MOST_CLASSES:
        raise IncompatibleError(
            f"evaluation at clients sums a confusion matrix; {counted(classes, 'class', 'classes')} are more than "
            f"{MOST_CLASSES}",
            hint="Evaluate on the server's rows: eval.at=server.",
        )
    positive = positive_code(partition.classes, run.config.eval.positive) if classes == 2 else 1
    return RowSums(partition.task, classes, positive, partition.target_scale)


def column_sums(run: RunInfo) -> ColumnSums:
    """Returns the sums of a run's columns. Raises IncompatibleError for characters, which are no numbers."""
    if run.partition.task == "next-character":
        raise IncompatibleError("columns of characters have no mean", hint="Use a data set of numbers.")
    return ColumnSums(math.prod(run.partition.shape))


def code_of(run: RunInfo, sums: RowSums | ColumnSums) -> WholeSums:
    """Returns the words of these sums. Raises IncompatibleError if the aggregator's ring is too small."""
    bits = BITS if isinstance(sums, ColumnSums) else _BITS
    return WholeSums.fitting(sums.size, bits, run.aggregator.ring, run.partition.clients)

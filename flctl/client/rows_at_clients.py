"""Sums over a client's own rows, which leave it in place of the rows: evaluation of a model, and column statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import ProtocolError, counted
from flctl.evaluation.column_sums import ColumnSums
from flctl.evaluation.evaluate import run_model
from flctl.evaluation.row_sums import RowSums
from flctl.evaluation.sums_of_run import code_of, column_sums, row_sums
from flctl.metrics import headline
from flctl.run.run import Run
from flctl.types import ROW_SUMS, WEIGHT, Arrays, Batch, ClientId, Failure, Outgoing, Work
from flctl.wire.replies import guarded

if TYPE_CHECKING:
    from flctl.models.flat_model import FlatModel

__all__ = ["RowsAtClients"]


class RowsAtClients:
    """Answers requests for sums. A client with fewer rows than `eval.min_rows` answers with a refusal."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def outgoing(self, ids: Sequence[ClientId], work: Work) -> list[Outgoing | Failure]:
        """Returns each client's sums, a `Failure` for any exception."""
        return [guarded(partial(self.sums, client_id, work)) for client_id in ids]

    def sums(self, client_id: ClientId, work: Work) -> Outgoing:
        """Returns one client's sums, and raises what its data or the model raise."""
        index = self.run.partition.index(client_id)
        metrics: dict[str, float] = {}
        if work.ask == "statistics":
            code: RowSums | ColumnSums = column_sums(self.run)
            values = self._statistics(index, column_sums(self.run))
        else:
            code = row_sums(self.run)
            values, metrics = self._evaluated(index, row_sums(self.run), work)
        words = code_of(self.run, code)
        if dict(work.layout) != {ROW_SUMS[work.ask]: words.words}:
            raise ProtocolError(f"sums of the layout {dict(work.layout)} were asked for, expected {words.words} words")
        return Outgoing({ROW_SUMS[work.ask]: words.encode(values), WEIGHT: np.ones(1)}, metrics)

    def _statistics(self, index: int, code: ColumnSums) -> list[int]:
        floor = self.run.config.eval.min_rows
        if floor is None:
            raise ProtocolError("statistics are refused, because no eval.min_rows is set")
        x, _ = self.run.partition.train(index)
        self._require(len(x), floor)
        return code.of(x)

    def _evaluated(self, index: int, code: RowSums, work: Work) -> tuple[list[int], dict[str, float]]:
        x, y = self._rows(index)
        self._require(len(y), self.run.config.eval.min_rows or 0)
        model = self._model
        model.load(self.run.division.whole(work.params, self._private))
        batch_size = self.run.config.eval.batch_size
        outcomes = run_model(model, self.run.task(), x, y, batch_size, keep_scores=code.keep_scores)
        sums = code.of(outcomes)
        if not self.run.config.eval.per_client:
            return sums, {}
        name = headline(self.run.partition.task).metric
        found = {**code.values(sums, (name,)), "rows": float(len(y))}
        return sums, {key: value for key, value in found.items() if key in (name, "rows") and np.isfinite(value)}

    def _rows(self, index: int) -> Batch:
        partition = self.run.partition
        return partition.validation(index) if self.run.selection_split == "validation" else partition.test(index)

    def _require(self, rows: int, floor: int) -> None:
        if rows < floor:
            raise ProtocolError(f"fewer than {counted(floor, 'row')}, the least of eval.min_rows")

    @cached_property
    def _model(self) -> FlatModel:
        return self.run.build_model()

    @cached_property
    def _private(self) -> Arrays:
        return self.run.division.private_of(self.run.build_model().read())

"""Notices of a run that is legal and odd: idle and empty clients, clients of one row, a target or patience without
effect."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flctl.algorithms.transform import Notice
from flctl.errors import counted
from flctl.metrics import METRICS, higher_is_better
from flctl.run.batch_checks import idle_clients

if TYPE_CHECKING:
    from flctl.run.run import Run

__all__ = ["run_notices"]

RANGES = {
    **{name: (0.0, 1.0 if one.higher_is_better else math.inf) for name, one in METRICS.items()},
    "r2": (-math.inf, 1.0),
    "perplexity": (1.0, math.inf),
}
"""Lowest and highest value of a metric."""
MANY = 0.2
"""Fraction of clients from which those without rows, or with one, are named."""


def run_notices(run: Run) -> Iterator[Notice]:
    """The notices, most important first."""
    rows = (*_empty(run), *_single_rows(run))
    for sentence in (*_target(run), *_idle(run), *_patience(run), *rows):
        yield Notice(sentence)


def _target(run: Run) -> Iterator[str]:
    stop = run.config.stop
    name = stop.metric or run.metric
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if stop.target is None:
        return
    if higher_is_better(name) and stop.target > high:
        meant = f"; a percentage is written as a fraction, {stop.target / 100:g}" if high < stop.target <= 100 else ""
        yield f"the target {name}={stop.target:g} cannot be reached: {name} is at most {high:g}{meant}"
    if not higher_is_better(name) and stop.target < low:
        yield f"the target {name}={stop.target:g} cannot be reached: {name} is at least {low:g}"


def _idle(run: Run) -> Iterator[str]:
    if idle := len(idle_clients(run)):
        batch = run.config.local.batch_size
        yield (
            f"{idle:,} of {counted(run.eligible, 'client')} make no step: local.drop_last leaves out batches below "
            f"{counted(batch, 'row')}, and they have fewer. Use a smaller --batch-size, or -o local.drop_last=false"
        )


def _patience(run: Run) -> Iterator[str]:
    patience, every = run.config.stop.patience, run.config.eval.every
    if patience is not None and every and patience >= (evaluations := math.ceil(run.config.rounds / every)):
        yield f"stop.patience {patience} has no effect: the run has {counted(evaluations, 'evaluation')}"


def _single_rows(run: Run) -> Iterator[str]:
    rows = run.partition.counts[:, 0]
    single = int(np.count_nonzero(rows == 1))
    if single > MANY * run.eligible:
        yield f"{single:,} of {counted(run.eligible, 'client')} have one training row"


def _empty(run: Run) -> Iterator[str]:
    clients, empty = run.partition.clients, run.partition.clients - run.eligible
    if empty > MANY * clients:
        yield (
            f"{empty:,} of {counted(clients, 'client')} have no training row and are never selected. A partition with "
            "fewer --clients, or with --min-size, has none of them"
        )

"""Checks of local batches before a run: clients that would make no step, and batches that BatchNorm refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flctl.errors import ConfigError, counted
from flctl.types import IntArray, LocalWork

if TYPE_CHECKING:
    from torch.nn import Module

    from flctl.algorithms.run_info import RunInfo
    from flctl.models.flat_model import FlatModel

__all__ = ["check_batches", "idle_clients"]


def idle_clients(run: RunInfo) -> IntArray:
    """Indices of the clients with training rows that make no step: `local.drop_last` leaves out their only batch."""
    local, rows = run.config.local, run.partition.counts[:, 0]
    if not local.drop_last or run.makes_steps is not None:
        return np.zeros(0, np.int64)
    return np.flatnonzero((rows > 0) & (rows < local.batch_size))


def check_batches(run: RunInfo, build: Callable[[], FlatModel]) -> None:
    """Raises ConfigError if no client would make a step, or if BatchNorm would have to normalise a single row."""
    rows = run.partition.counts[:, 0]
    if len(idle_clients(run)) == np.count_nonzero(rows):
        held = rows[rows > 0]
        most = int(held.max())
        raise ConfigError(
            f"no client would make a step: local.drop_last leaves out batches below "
            f"{counted(run.config.local.batch_size, 'row')}, and clients have {int(held.min()):,} to "
            f"{counted(most, 'training row')}",
            hint=f"Use --batch-size {most} or less, or -o local.drop_last=false.",
        )
    alone = _single_row_batches(rows, run.config.local.amount())
    if run.makes_steps is None and len(alone) and _refuses_single_rows(build().module, run):
        named = ", ".join(f"'{run.partition.client_ids[k]}' with {counted(int(rows[k]), 'row')}" for k in alone[:3])
        raise ConfigError(
            f"BatchNorm cannot normalise a batch of one row, with which {counted(len(alone), 'client')} would end an "
            f"epoch: {named}{', ...' if len(alone) > 3 else ''}",
            hint="-o local.drop_last=true leaves such batches out; or use another --batch-size.",
        )


def _single_row_batches(rows: IntArray, local: LocalWork) -> IntArray:
    """Indices of the clients with a batch of one row in each epoch."""
    if local.batch_size == 0:
        return np.flatnonzero(rows == 1)
    if local.drop_last and local.batch_size > 1:
        return np.zeros(0, np.int64)
    return np.flatnonzero((rows > 0) & ((rows % local.batch_size == 1) | (local.batch_size == 1)))


def _refuses_single_rows(module: Module, run: RunInfo) -> bool:
    """True if the model has BatchNorm layers and training it on one example raises their error."""
    import torch

    if not any(_is_batch_norm(layer) for layer in module.modules()):
        return False
    codes = run.partition.task == "next-character"
    example = torch.zeros((1, *run.partition.shape), dtype=torch.int64 if codes else torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            module.train()(example)
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    return False


def _is_batch_norm(layer: Module) -> bool:
    return any(kind.__name__ == "_BatchNorm" for kind in type(layer).__mro__)

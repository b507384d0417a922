"""Loss and gradient of the global model on all rows of each client, before local training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flctl.executors.shards import Shards
from flctl.executors.stacked import Gradient
from flctl.types import LocalWork, Start

__all__ = ["stacked_starts"]

_FLOATS = 1 << 22
"""Values of rows in memory at once; a single larger client may exceed it."""


def stacked_starts(
    params: Tensor, shards: Shards, local: LocalWork, gradient: Gradient, features: int
) -> Iterator[Start]:
    """Yields each client's loss and gradient at `params` [D], for clients side by side, in batches of the training
    size."""
    first = 0
    while first < len(shards.clients):
        padded = np.maximum.accumulate(shards.sizes[first:]) * np.arange(1, len(shards.sizes) - first + 1)
        last = first + max(1, int(np.searchsorted(padded * features, _FLOATS, side="right")))
        part = shards.part(slice(first, last))
        yield from _side_by_side(params, part, local, gradient)
        first = last


def _side_by_side(params: Tensor, shards: Shards, local: LocalWork, gradient: Gradient) -> list[Start]:
    stack = shards.stack(replace(local, epochs=1, steps=None, drop_last=False))
    arranged, width = stack.arrangement, stack.arrangement.width
    values = params.expand(len(arranged.clients), -1)
    total, block = torch.zeros(values.shape), torch.empty(values.shape)
    loss = torch.zeros(len(values), dtype=torch.float64)
    parts = torch.from_numpy(arranged.counts / np.maximum(arranged.counts.sum(axis=1, keepdims=True), 1))
    for step_index, rows in enumerate(arranged.active):
        here, part = slice(step_index * width, (step_index + 1) * width), parts[:rows, step_index]
        share = stack.share[:rows, here]
        losses = gradient(values[:rows], stack.x[:rows, here], stack.y[:rows, here], share, block[:rows])
        total[:rows].addcmul_(block[:rows], part.float().unsqueeze(1))
        loss[:rows] += (losses * share).masked_fill_(share == 0, 0).sum(1, dtype=torch.float64) * part
    back = np.argsort(arranged.clients)
    return [Start(float(loss[position]), total[position].numpy()) for position in back.tolist()]

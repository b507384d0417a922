"""Sizes of a run's messages, measured on encoded messages of the same layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flctl import arrays, seeds
from flctl.types import ClientUpdate, Work
from flctl.wire import messages

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

__all__ = ["down_bytes", "first_work", "up_bytes"]


def first_work(run: RunInfo) -> Work:
    """Returns the work of a run's first round, with zeros for the model."""
    params = arrays.zeros(run.layout)
    states = {name: t.broadcast(t.init(run.pipeline.layouts[name])) for name, t in run.transforms.items()}
    return Work(
        round=1,
        params=params,
        extra=run.strategy.broadcast(run.strategy.init(params)),
        transforms={name: vectors for name, vectors in states.items() if vectors},
        local=run.config.local.amount(),
        layout=run.update_layout,
    )


def down_bytes(run: RunInfo) -> int:
    """Returns the bytes of a round's message to a client."""
    return messages.work_size(first_work(run))


def up_bytes(run: RunInfo, work: Work) -> int:
    """Returns the bytes of a client's message, from a random update: codes of transforms may be of any type. Without
    what an aggregator's protocol adds."""
    generator = seeds.rng(run.config.seed, "forecast")
    layout = run.strategy.sends(run.layout)
    vectors = {name: generator.standard_normal(length, np.float32) for name, length in layout.items()}
    memory = arrays.zeros(run.pipeline.memory_layout)
    update, _ = run.pipeline.send(ClientUpdate(run.partition.client_ids[0], vectors, 1.0), work, memory)
    return messages.vector_size(update.arrays)

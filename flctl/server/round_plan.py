"""The plan of a round: local work with its scheduled learning rate."""

from __future__ import annotations

from dataclasses import replace

from flctl.run.run import Run
from flctl.server.lr_schedule import scheduled_lr
from flctl.types import LocalWork

__all__ = ["local_work"]


def local_work(run: Run, number: int) -> LocalWork:
    """The `local:` section for one round, with its learning rate scheduled."""
    local = run.config.local
    lr = scheduled_lr(
        local.schedule,
        local.lr,
        number,
        run.config.rounds,
        decay=local.decay,
        decay_rounds=local.decay_rounds,
        warmup_rounds=local.warmup_rounds,
        min_lr=local.min_lr,
    )
    return replace(local.amount(), lr=lr)

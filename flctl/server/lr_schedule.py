"""Learning-rate schedules over rounds; plain numbers, no torch."""

from __future__ import annotations

import math

from flctl.errors import ConfigError

__all__ = ["SCHEDULES", "scheduled_lr"]

SCHEDULES = ("constant", "step", "exponential", "cosine", "linear")


def scheduled_lr(
    schedule: str,
    lr: float,
    round: int,  # noqa: A002
    rounds: int,
    *,
    decay: float = 0.99,
    decay_rounds: int = 1,
    warmup_rounds: int = 0,
    min_lr: float = 0.0,
) -> float:
    """The clients' learning rate in `round` (from 1) of `rounds`.

    In the first W = `warmup_rounds` rounds it is lr * round / W. Then, with s = round - 1 - W and S = rounds - W:

    constant     lr
    step         max(min_lr, lr * decay ** floor(s / decay_rounds))
    exponential  max(min_lr, lr * decay ** (s / decay_rounds))
    cosine       min_lr + (lr - min_lr) * (1 + cos(pi * s / S)) / 2     (Loshchilov and Hutter 2017, equation 5)
    linear       min_lr + (lr - min_lr) * (1 - s / S)

    Cosine and linear would meet `min_lr` in the round after the last, and stay there. Raises ConfigError for an
    unknown schedule and for a `min_lr` above `lr`.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{schedule}'", hint=f"Known: {', '.join(SCHEDULES)}.")
    if schedule != "constant" and min_lr > lr:
        raise ConfigError(f"min_lr {min_lr:g} is above lr {lr:g}", hint="Lower local.min_lr or raise local.lr.")
    if round <= warmup_rounds:
        return lr * round / warmup_rounds
    since = round - 1 - warmup_rounds
    if schedule in ("cosine", "linear"):
        progress = min(1.0, since / max(1, rounds - warmup_rounds))
        left = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
        return min_lr + (lr - min_lr) * left
    return lr if schedule == "constant" else max(min_lr, lr * decay ** _decays(schedule, since, decay_rounds))


def _decays(schedule: str, since: int, decay_rounds: int) -> float:
    return since // decay_rounds if schedule == "step" else since / decay_rounds

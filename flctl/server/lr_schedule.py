"""Learning-rate schedules over rounds; plain numbers, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flctl.errors import ConfigError

if TYPE_CHECKING:
    from flctl.config.config import LocalConfig
    from flctl.types import LocalWork

__all__ = ["SCHEDULES", "LrSchedule", "scheduled"]

SCHEDULES = ("constant", "step", "exponential", "cosine", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class LrSchedule:
    """The clients' learning rate over the `rounds` of a run; the options are those of the `local:` section.

    In the first W = `warmup_rounds` rounds it is lr * round / W. Then, with s = round - 1 - W and S = rounds - W:

    constant     lr
    step         max(min_lr, lr * decay ** floor(s / decay_rounds))
    exponential  max(min_lr, lr * decay ** (s / decay_rounds))
    cosine       min_lr + (lr - min_lr) * (1 + cos(pi * s / S)) / 2     (Loshchilov and Hutter 2017, equation 5)
    linear       min_lr + (lr - min_lr) * (1 - s / S)

    Cosine and linear would reach `min_lr` in the round after the last, and stay there. Raises ConfigError for an
    unknown schedule and for a `min_lr` above `lr`.
    """

    schedule: str
    lr: float
    rounds: int
    decay: float = 0.99
    decay_rounds: int = 1
    warmup_rounds: int = 0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"unknown schedule '{self.schedule}'", hint=f"Known: {', '.join(SCHEDULES)}.")
        if self.schedule != "constant" and self.min_lr > self.lr:
            raise ConfigError(
                f"min_lr {self.min_lr:g} is above lr {self.lr:g}", hint="Lower local.min_lr or raise local.lr."
            )

    def at(self, round_number: int) -> float:
        """Returns the learning rate of a round; rounds count from 1."""
        if round_number <= self.warmup_rounds:
            return self.lr * round_number / self.warmup_rounds
        since = round_number - 1 - self.warmup_rounds
        if self.schedule in ("cosine", "linear"):
            progress = min(1.0, since / max(1, self.rounds - self.warmup_rounds))
            left = (1 + math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else 1 - progress
            return self.min_lr + (self.lr - self.min_lr) * left
        return self.lr if self.schedule == "constant" else max(self.min_lr, self.lr * self.decay ** self._decays(since))

    def _decays(self, since: int) -> float:
        return since // self.decay_rounds if self.schedule == "step" else since / self.decay_rounds


def scheduled(local: LocalConfig, rounds: int, round_number: int) -> LocalWork:
    """Returns the `local:` section as the work of one round of `rounds`, with its learning rate scheduled."""
    schedule = LrSchedule(
        schedule=local.schedule,
        lr=local.lr,
        rounds=rounds,
        decay=local.decay,
        decay_rounds=local.decay_rounds,
        warmup_rounds=local.warmup_rounds,
        min_lr=local.min_lr,
    )
    return replace(local.amount(), lr=schedule.at(round_number))

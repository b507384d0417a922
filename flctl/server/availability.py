"""The clients of a cohort that can be asked: those that are away when a round starts are left out of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flctl.engines.engine import Engine
from flctl.errors import RoundFailedError, command_line, counted
from flctl.run.run import Run
from flctl.types import IntArray, WaitingRound

__all__ = ["Availability", "WaitInterruptedError", "never"]

POLL_SECONDS = 0.5
"""Seconds between two looks at the clients that are available."""


def never() -> bool:
    """Returns False: nothing interrupts."""
    return False


class WaitInterruptedError(Exception):
    """The wait for clients was interrupted; the round has not started."""


@dataclass(frozen=True)
class Availability:
    """Asks the engine which clients are there. Waits until a cohort has `engine.minimum` of them, for `engine.wait`
    seconds."""

    run: Run
    engine: Engine
    interrupted: Callable[[], bool] = never

    def present(self, round_number: int, drawn: IntArray) -> IntArray:
        """Returns those of the drawn clients, by index, that are available.

        Raises RoundFailedError if fewer than needed are there in time, WaitInterruptedError if the user stops the run.
        """
        needed, started, announced = min(self.run.config.engine.minimum, len(drawn)), time.monotonic(), None
        while True:
            present = self.reachable(drawn)
            if len(present) >= needed:
                return present
            if self.interrupted():
                raise WaitInterruptedError
            waiting = self._waiting(round_number, drawn, present, needed)
            seconds = self.run.config.engine.wait
            if seconds is not None and time.monotonic() - started >= seconds:
                raise self._too_few(waiting, seconds)
            if waiting != announced:
                self.run.registry.hook.flctl_round_waits(waiting=waiting)
                announced = waiting
            time.sleep(POLL_SECONDS)

    def reachable(self, drawn: IntArray) -> IntArray:
        """Returns those of the clients, by index, that are available now."""
        available = self.engine.available()
        if available is None:
            return drawn
        ids = self.run.partition.client_ids.take(drawn).tolist()
        return drawn[np.array([client in available for client in ids], np.bool_)]

    def _waiting(self, round_number: int, drawn: IntArray, present: IntArray, needed: int) -> WaitingRound:
        ids = self.run.partition.client_ids
        # Privacy by sampling rests on a cohort that is secret: its clients are not named.
        away = [] if self.run.secret_cohort else ids.take(np.setdiff1d(drawn, present)).tolist()
        return WaitingRound(round_number, tuple(away), len(present), needed)

    def _too_few(self, waiting: WaitingRound, seconds: float) -> RoundFailedError:
        resume = command_line("flctl", "train", "--resume", self.run.directory)
        return RoundFailedError(
            f"round {waiting.round}: {waiting.present} of the {counted(waiting.needed, 'client')} that it needs "
            f"{'is' if waiting.present == 1 else 'are'} available after {seconds:g} s; away: {waiting.named(5)}",
            hint=f"Go on when they are back: {resume}, or lower engine.minimum.",
        )

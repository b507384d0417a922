"""Retries: pauses with jitter between attempts, and one sentence a minute about what is waited for."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flctl.errors import FlctlError

__all__ = ["HubAwayError", "Interrupted", "Pace", "Retries", "explained", "printable"]

T = TypeVar("T")


class HubAwayError(FlctlError):
    """The hub did not answer, and the caller asked for no more attempts, or for the client to stop."""


class Interrupted(Exception):  # noqa: N818 - an answer that says: later
    """An attempt that failed for a reason that may pass; the text is for people.

    With `at_once`, the next attempt follows without a pause: a kept connection had been closed by the other end.
    """

    def __init__(self, text: str, *, at_once: bool = False) -> None:
        super().__init__(text)
        self.at_once = at_once


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses between attempts, in seconds.

    The n-th pause is drawn uniformly between `least` and twice the one before, at most `most`: callers that a restarted
    hub cut off at one instant do not come back at one instant. `give_up` ends the attempts after that time; None never.
    """

    least: float = 1.0
    most: float = 30.0
    give_up: float | None = None
    say_every: float = 60.0

    def pauses(self, draw: random.Random) -> Iterator[float]:
        """Yields pauses without end."""
        limit = 2 * self.least
        while True:
            yield draw.uniform(self.least, min(limit, self.most))
            limit = min(2 * limit, self.most)


class Retries:
    """Attempts at one piece of work, for ever unless the pace says otherwise.

    `said` receives a sentence at the first failure, then once a minute, and one at the end.
    """

    def __init__(self, pace: Pace, said: Callable[[str], None], stop: threading.Event) -> None:
        self._pace, self._said, self._stop = pace, said, stop
        self._draw = random.Random()
        self._lock = threading.Lock()
        self._since: float | None = None
        self._spoke = 0.0

    def run(self, work: Callable[[], T], moved: Callable[[], int] | None = None) -> T:
        """Returns what `work` returns, which is called again while it raises OSError, HTTPException or Interrupted.

        `moved` counts progress: the pauses begin again at the least one if an attempt moved something. Raises
        HubAwayError when the pace gives up or the client is stopped.
        """
        pauses, reached, started = self._pace.pauses(self._draw), moved() if moved else 0, time.monotonic()
        while True:
            if self._stop.is_set():
                raise HubAwayError("the client was stopped")
            try:
                result = work()
            except (OSError, http.client.HTTPException, Interrupted) as error:
                if isinstance(error, Interrupted) and error.at_once:
                    continue
                reason = explained(error)
            else:
                self._answered()
                return result
            if self._pace.give_up is not None and time.monotonic() - started >= self._pace.give_up:
                raise HubAwayError(
                    f"the hub cannot be used: {reason}", hint="Check the address with: flctl site doctor"
                )
            self._failed(reason)
            if moved and (now := moved()) > reached:
                pauses, reached = self._pace.pauses(self._draw), now
            self._stop.wait(next(pauses))

    def _failed(self, reason: str) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since, self._spoke = now, now - self._pace.say_every
            if now - self._spoke < self._pace.say_every:
                return
            self._spoke, minutes = now, (now - self._since) / 60
        waited = f" for {minutes:.0f} min" if minutes >= 1 else ""
        self._said(f"no connection to the hub{waited} ({reason}); trying again")

    def _answered(self) -> None:
        with self._lock:
            if self._since is None:
                return
            self._since = None
        self._said("the hub answers again")


def printable(text: object) -> str:
    """Returns at most 500 printable characters of what a hub or a proxy said: it is shown on a terminal."""
    return "".join(filter(str.isprintable, str(text)[:500]))


def explained(error: Exception) -> str:
    """Returns the reason of a failed attempt in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate that was presented is not the hub's: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return printable(error) or type(error).__name__

"""Ctrl-C and SIGTERM while a run trains: the first waits for the round's end, the second does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from flctl.cli import output
from flctl.cli.failures import Terminated

__all__ = ["StopSignals", "receiving"]


@dataclass(slots=True)
class StopSignals:
    """Requests to stop, by signal number: the first waits for the round's end, the second does not."""

    seen: list[int] = field(default_factory=list)

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        self.seen.append(signal_number)
        if len(self.seen) > 1:
            raise KeyboardInterrupt if signal_number == signal.SIGINT else Terminated
        output.note("finishing the round; press Ctrl-C again to stop at once (a resume repeats the round)")


@contextmanager
def receiving(signals: StopSignals) -> Iterator[None]:
    """Ctrl-C and SIGTERM end training after the round in progress."""
    former = {
        signal_number: signal.signal(signal_number, signals.receive)
        for signal_number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for signal_number, handler in former.items():
            signal.signal(signal_number, handler)

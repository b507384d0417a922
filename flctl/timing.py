"""Wall time by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["PhaseTimer"]


@dataclass(slots=True)
class PhaseTimer:
    """Seconds by phase; time in an inner phase does not count for the outer one."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the phase `name`, and not to the phase around it."""
        start, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - inside

    def report(self) -> dict[str, float]:
        """The phases, and `total`."""
        return {"total": time.perf_counter() - self.started, **self.seconds}

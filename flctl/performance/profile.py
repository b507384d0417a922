"""Profile of a training's seconds, from the start of its process to the end, by phase and by round.

Phases are the server's wall seconds. Client phases (load, train, transform) run in `workers` processes at once and are
measured there, so their seconds are divided by `workers`. The rest of the time that the server waited for replies is
`wait`: idle workers and messages in transit. So phases add up to the wall time, and the share of `wait` is approximate
if processes compete for cores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flctl.errors import IntegrityError
from flctl.plugins.hookspecs import hookimpl
from flctl.run.directory import report_line
from flctl.timing import PhaseTimer

if TYPE_CHECKING:
    from flctl.server.training import Started, TrainingResult
    from flctl.types import RoundReport

__all__ = ["FORMAT", "PHASES", "STARTUP", "Profile", "Profiler", "checked", "phases_of"]

FORMAT = "flctl-profile/1"
PHASES = ("select", "load", "train", "transform", "wait", "aggregate", "evaluate", "checkpoint", "other")
STARTUP = ("python", "imports", "run", "engine")
WORK = ("load", "train", "transform")
Line = Mapping[str, Any]


def phases_of(line: Line, workers: int) -> dict[str, float]:
    """The phases of one round, from its line of metrics.jsonl; `workers` processes trained its clients.

    A line without `work` (an aggregator that talks to each client) has all of the waiting as `train`.
    """
    seconds, work = line["seconds"], line.get("work") or {}
    waited = seconds.get("train", 0.0)
    spent = {name: work.get(name, 0.0) / workers for name in WORK} if work else {"train": waited}
    spent["wait"] = max(waited - sum(spent.values()), 0.0)
    spent |= {name: seconds.get(name, 0.0) for name in ("select", "aggregate", "evaluate", "checkpoint")}
    # `total` ends with the round, before its checkpoint.
    known = waited + sum(spent[name] for name in ("select", "aggregate", "evaluate"))
    spent["other"] = max(seconds["total"] - known, 0.0)
    return {name: spent.get(name, 0.0) for name in PHASES}


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds of the rounds `first` to `last`, which one process played: before them by part of the start-up, in them
    by phase and by round, and after the last one (`finish`: pictures). `phases` count what lies between rounds too.

    `utilisation` is the share of the waiting in which workers worked; None where clients' seconds are not known.
    """

    first: int
    last: int
    workers: int
    startup: Mapping[str, float]
    phases: Mapping[str, float]
    finish: float
    utilisation: float | None
    each: Sequence[Mapping[str, float]]

    def data(self) -> dict[str, Any]:
        """The profile as profile.json has it; docs/training.md describes the keys."""
        startup, phases = sum(self.startup.values()), sum(self.phases.values())
        return {
            "format": FORMAT,
            "rounds": {"first": self.first, "last": self.last},
            "workers": self.workers,
            "seconds": {
                "total": _rounded(startup + phases + self.finish),
                "startup": _rounded(startup),
                "rounds": _rounded(phases),
                "finish": _rounded(self.finish),
            },
            "startup": {name: _rounded(seconds) for name, seconds in self.startup.items()},
            "phases": {name: _rounded(seconds) for name, seconds in self.phases.items()},
            "utilisation": None if self.utilisation is None else round(self.utilisation, 4),
            "each": [{name: _rounded(value) for name, value in row.items()} for row in self.each],
        }


def _rounded(seconds: float) -> float:
    return round(seconds, 6)


class Profiler:
    """An observer that measures a training; `finish` gives what it saw.

    `startup` are seconds by part before it was made, python and imports among them.
    """

    def __init__(self, startup: Mapping[str, float]) -> None:
        self._clock = PhaseTimer(seconds=dict(startup))
        self._made = time.perf_counter()
        self._lines: list[Line] = []
        self._started = self._finished = 0.0
        self._first_saving = self._last_saving = 0.0
        self._after, self._workers = 0, 1

    def opening(self) -> None:
        """Called when the run is prepared and its engine is about to be opened."""
        self._clock.seconds["run"] = time.perf_counter() - self._made
        self._made = time.perf_counter()

    @hookimpl
    def flctl_run_started(self, run: Started) -> None:
        self._started = time.perf_counter()
        self._first_saving = run.saving
        self._clock.seconds["engine"] = self._started - self._made - run.saving
        self._after, self._workers = run.after_round, run.run.config.engine.workers

    @hookimpl
    def flctl_round_finished(self, report: RoundReport) -> None:
        self._lines.append(report_line(report))

    @hookimpl
    def flctl_run_finished(self, result: TrainingResult) -> None:
        self._finished = time.perf_counter()
        self._last_saving = result.saving

    def finish(self) -> Profile:
        """The profile; called once training has returned."""
        ended = time.perf_counter()
        each = [phases_of(line, self._workers) for line in self._lines]
        phases = {name: sum(row[name] for row in each) for name in PHASES}
        phases["checkpoint"] += self._last_saving
        wall = self._finished - self._started + self._first_saving
        phases["other"] += max(wall - sum(phases.values()), 0.0)
        return Profile(
            first=self._after + 1,
            last=self._after + len(each),
            workers=self._workers,
            startup={name: self._clock.seconds.get(name, 0.0) for name in STARTUP},
            phases=phases,
            finish=ended - self._finished,
            utilisation=_utilisation(self._lines, self._workers),
            each=[{"round": line["round"], **row} for line, row in zip(self._lines, each, strict=True)],
        )


def _utilisation(lines: Sequence[Line], workers: int) -> float | None:
    """work / (workers x the time that the server waited for them)."""
    worked = sum(sum(line["work"].values()) for line in lines)
    waited = sum(line["seconds"].get("train", 0.0) for line in lines if line["work"])
    return min(worked / (workers * waited), 1.0) if waited else None


def checked(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Returns the content of a profile.json. Raises IntegrityError if it is not a profile."""
    parts = [value.get(name) for name in ("seconds", "startup", "phases", "rounds")]
    sound = value.get("format") == FORMAT and isinstance(value.get("each"), list)
    numbers = all(isinstance(part, Mapping) and all(map(_is_number, part.values())) for part in parts)
    if not (sound and numbers and _is_number(value.get("workers"))):
        raise IntegrityError(f"{where} is not a profile of the format {FORMAT!r}", hint="Train with --profile again.")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""The loop over rounds: when to stop, when to keep a checkpoint, and how a run that was cut off goes on.

Order within a round: the round's line is appended, then (when one is due) the lines are put on disk and the
checkpoint after them. A resume takes the newest checkpoint, drops lines and client memory of later rounds, and plays
those rounds again; since every random number is drawn by name, they come out the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from flctl.algorithms.pipeline import transform_statements
from flctl.config.config import digest
from flctl.engines.engine import Engine
from flctl.engines.footprint import refuse_too_large
from flctl.errors import FlctlError, IncompatibleError, IntegrityError, PrivacyBudgetError, counted
from flctl.metrics import higher_is_better
from flctl.run.directory import RunDirectory, finite, report_line, versions
from flctl.run.run import Run
from flctl.server.availability import WaitInterruptedError
from flctl.server.round_journal import RoundJournal
from flctl.server.rounds import Rounds
from flctl.server.state import State
from flctl.types import Arrays, Checkpoint, RoundReport

__all__ = [
    "Progress",
    "Started",
    "Training",
    "TrainingResult",
    "engine_class",
    "engine_name",
    "newest_state",
    "train",
]

Status = Literal["finished", "target", "patience", "time", "budget", "interrupted"]


@dataclass(frozen=True, slots=True)
class Progress:
    """State of the stopping rules after a round; part of the checkpoint."""

    best_round: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    seconds: float = 0.0
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """First event for observers: the run, the round it starts after, and the number of rounds it may reach. `saving` is
    the time in seconds of the first checkpoint, which the first round's line includes."""

    run: Run
    directory: RunDirectory
    after_round: int
    rounds: int
    saving: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Outcome of a run, as in summary.json. `saving` is the time in seconds of the checkpoints after the last line;
    `refused` is the reason for which the next round was refused, with the status "budget"."""

    directory: RunDirectory
    status: Status
    rounds: int
    summary: Mapping[str, Any]
    saving: float = 0.0
    refused: PrivacyBudgetError | None = None


def train(run: Run, directory: RunDirectory, *, interrupted: Callable[[], bool] = lambda: False) -> TrainingResult:
    """Trains until a rule of `stop:` holds, `rounds` are done, or `interrupted()` is true after a round.

    Starts where the directory's newest checkpoint is. Raises FlctlError, with a checkpoint of the round before, when a
    round cannot be used; IncompatibleError when the checkpoint belongs to another config, partition or version;
    ConfigError when this machine lacks the memory.
    """
    chosen = engine_class(run)
    refuse_too_large(run, chosen)
    with directory.locked():
        directory.keep_execution(run.execution.facts())
        if run.adversary.attacks:
            directory.keep_attack(run.adversary.facts())
        engine = chosen.from_options(dict(run.config.engine.options))
        training: Training | None = None
        try:
            with engine.open(run):
                training = Training(run, directory, engine, interrupted)
                return training.finish()
        except FlctlError:
            if training is not None:
                training.keep()  # once the engine is closed: a client that was late may still have written
            raise


def engine_name(run: Run) -> str:
    """The engine that `auto` stands for: sites if the rows are there, a pool for more than one worker."""
    chosen = run.config.engine
    if chosen.name == "auto" and not run.partition.here:
        return "network"
    return chosen.name if chosen.name != "auto" else ("pool" if chosen.workers > 1 else "inprocess")


def engine_class(run: Run) -> type[Engine]:
    """Returns the class of the engine that the run's clients run in. Raises PluginError for an unknown name."""
    return run.registry.get("engine", engine_name(run))


def newest_state(run: Run, directory: RunDirectory) -> State | None:
    """The state that training would go on from; None before the first checkpoint. Raises IncompatibleError for one
    that belongs to something else, IntegrityError for one that is damaged."""
    saved = directory.checkpoints.rounds()
    if not saved:
        return None
    checkpoint = directory.checkpoints.load(saved[-1], run.build_model())
    refuse_foreign(run, directory, checkpoint)
    return state_of(checkpoint)


def refuse_foreign(run: Run, directory: RunDirectory, checkpoint: Checkpoint) -> None:
    """Raises IncompatibleError for a checkpoint of another config, partition or version."""
    where = f"the checkpoint of round {checkpoint.round}"
    if checkpoint.config_digest != digest(run.config):
        raise IncompatibleError(
            f"{where} was written with a different configuration", hint="Start a new run with --out."
        )
    if checkpoint.partition_digest != run.partition.digest:
        hint = "Restore the partition that the run was started on, or start a new run."
        raise IncompatibleError(f"{where} was written with a different partition", hint=hint)
    made, here = directory.facts["versions"], versions()
    for name in ("flctl", "torch", "numpy"):
        if made.get(name) != here[name]:
            hint = f"Numbers may differ between versions: install {name} {made.get(name)}, or start a new run."
            raise IncompatibleError(f"{where} was written by {name} {made.get(name)}, found {here[name]}", hint=hint)


DIVERGED = 1000.0
"""Factor between the first round's loss (at least 1) and that of a run that diverges."""


@dataclass
class Training:
    """One training in progress."""

    run: Run
    directory: RunDirectory
    engine: Engine
    interrupted: Callable[[], bool]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.run, self.engine, self.interrupted)
        self.memory = self.rounds.memory
        self.metric = self.run.metric
        self.higher = higher_is_better(self.metric)
        self.stop_metric = self.run.config.stop.metric or self.metric
        self._saved_at = time.monotonic()
        self._saving = 0.0
        self._best: tuple[State, Progress] | None = None
        self._good: tuple[State, Progress] | None = None
        self._refused: PrivacyBudgetError | None = None
        self._first_loss: float | None = None

    def finish(self) -> TrainingResult:
        """Plays the rounds that are left."""
        state = self._start()
        started = Started(self.run, self.directory, state.round, self.run.config.rounds, self._saving)
        self._announce("flctl_run_started", run=started)
        while self.progress.status is None:
            try:
                state = self._round(state)
            except PrivacyBudgetError as refused:
                self._refused, self.progress = refused, replace(self.progress, status="budget")
                self._save(state)
            except WaitInterruptedError:
                self.progress = replace(self.progress, status="interrupted")
                self._save(state)
        return self._end(state)

    def keep(self) -> None:
        """Saves the state before the round that failed, unless a checkpoint holds it. A failure here is suppressed, so
        that the error that ended the round is reported."""
        if self._good is None or self.directory.checkpoints.rounds()[-1:] == [self._good[0].round]:
            return
        state, self.progress = self._good
        if self._best is not None and self._best[0].round > state.round:
            self._best = None
        with suppress(FlctlError, OSError):
            self._save(state)

    def _start(self) -> State:
        saved = self.directory.checkpoints.rounds()
        if not saved:
            state = self.rounds.initial()
            self.directory.rewind(0)
            self._save(state)
        else:
            state = self._restore(saved[-1])
        self.memory.forget_after(state.round)
        self._tidy(state.round)
        if state.round >= self.run.config.rounds:
            self.progress = replace(self.progress, status="finished")
        elif self.progress.status is not None:
            # The rules are asked again: a resume may have changed them, and an interruption is over.
            lines = self.directory.lines()
            status = self._verdict(state.round, self.progress, lines[-1] if lines else {})
            self.progress = replace(self.progress, status=status)
        return state

    def _restore(self, round_number: int) -> State:
        checkpoint = self.directory.checkpoints.load(round_number, self.rounds.model)
        refuse_foreign(self.run, self.directory, checkpoint)
        self.directory.rewind(round_number)
        self.progress = Progress(**checkpoint.progress)
        return state_of(checkpoint)

    def _round(self, state: State) -> State:
        started, self._good = time.monotonic(), (state, self.progress)

        def last(seconds: float) -> bool:
            round_number = state.round + 1
            return round_number >= self.run.config.rounds or self._out_of_time(self.progress.seconds + seconds)

        state, report = self.rounds.play(state, last=last)
        notes = (*report.notes, *self._divergence(report.loss))
        report = replace(report, seconds={**report.seconds, "checkpoint": self._saving}, notes=notes)
        self._saving = 0.0
        seconds = self.progress.seconds + time.monotonic() - started
        self.progress = self._judge(state.round, replace(self.progress, seconds=seconds), report.metrics)
        if self.progress.best_round == state.round:
            self._best = (state, replace(self.progress, status=None))
        self.directory.append(report)
        if self._save_is_due(state.round):
            self._save(state)
        self._announce("flctl_round_finished", report=report)
        return state

    def _divergence(self, loss: float | None) -> list[str]:
        """A note, once, if the clients' loss is many times that of the first round played here."""
        if loss is None or self._first_loss == math.inf:
            return []
        if self._first_loss is None:
            self._first_loss = max(loss, 1.0)
        if loss <= DIVERGED * self._first_loss:
            return []
        self._first_loss = math.inf
        return [f"the loss is {loss:.3g}: training diverges; lower local.lr, or set local.clip_norm"]

    def _judge(self, round_number: int, progress: Progress, metrics: Mapping[str, float]) -> Progress:
        """The progress after a round's metrics, with the status that ends the run, if one does."""
        progress = self._rank(round_number, progress, metrics)
        return replace(progress, status=self._verdict(round_number, progress, metrics))

    def _verdict(self, round_number: int, progress: Progress, metrics: Mapping[str, float]) -> Status | None:
        stop = self.run.config.stop
        if stop.target is not None and self._reaches(metrics.get(self.stop_metric), stop.target):
            return "target"
        if stop.patience is not None and progress.evaluations_since_best >= stop.patience:
            return "patience"
        if round_number >= self.run.config.rounds:
            return "finished"
        if self._out_of_time(progress.seconds):
            return "time"
        return "interrupted" if self.interrupted() else None

    def _rank(self, round_number: int, progress: Progress, metrics: Mapping[str, float]) -> Progress:
        if not metrics:
            return progress
        value, best = metrics[self.metric], progress.best_value
        gain = math.inf if best is None else (value - best if self.higher else best - value)
        if math.isfinite(value) and gain > self.run.config.stop.min_delta:
            return replace(progress, best_round=round_number, best_value=value, evaluations_since_best=0)
        return replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)

    def _reaches(self, value: float | None, target: float) -> bool:
        if value is None:
            return False
        return value >= target if higher_is_better(self.stop_metric) else value <= target

    def _out_of_time(self, seconds: float) -> bool:
        minutes = self.run.config.stop.minutes
        return minutes is not None and seconds >= 60 * minutes

    def _save_is_due(self, round_number: int) -> bool:
        rule = self.run.config.checkpoint
        due = bool(rule.every) and round_number % rule.every == 0
        late = bool(rule.seconds) and time.monotonic() - self._saved_at >= rule.seconds
        # Sites do not train a round twice, so that the next one must follow from a checkpoint.
        each = self.run.aggregator.answers_once or not self.run.partition.here
        return due or late or self.progress.status is not None or each

    def _save(self, state: State) -> None:
        """Writes the state, and before it the best one since the last time: the disk is asked once for both."""
        started = time.perf_counter()
        self.directory.sync_metrics()
        self.memory.sync()
        if self._best is not None and self._best[0].round != state.round:
            self._write(*self._best)
        self._best = None
        self._write(state, self.progress)
        self._tidy(state.round)
        self._saved_at = time.monotonic()
        self._saving += time.perf_counter() - started

    def _write(self, state: State, progress: Progress) -> None:
        checkpoint = Checkpoint(
            round=state.round,
            params=state.params,
            states=states_of(state),
            progress=asdict(progress),
            config_digest=digest(self.run.config),
            partition_digest=self.run.partition.digest,
        )
        self.directory.checkpoints.save(checkpoint, self.rounds.model)

    def _tidy(self, newest: int) -> None:
        """Removes what the checkpoint of round `newest` made superfluous: checkpoints that were kept for time or as
        the best so far, those beyond `keep`, halves that a kill left behind, and old client memory."""
        self.memory.settle(newest)
        RoundJournal(self.directory.path, newest).remove()
        self.directory.checkpoints.sweep()
        rule = self.run.config.checkpoint
        saved = [round_number for round_number in self.directory.checkpoints.rounds() if round_number < newest]
        regular = [
            round_number
            for round_number in saved
            if round_number == 0 or (rule.every and round_number % rule.every == 0)
        ]
        kept = set(regular if rule.keep is None else regular[max(0, len(regular) + 1 - rule.keep) :])
        for round_number in saved:
            if round_number not in kept and round_number != self.progress.best_round:
                self.directory.checkpoints.remove(round_number)

    def _end(self, state: State) -> TrainingResult:
        status = self.progress.status or "finished"
        lines = self.directory.lines()
        if len(lines) != state.round:
            raise IntegrityError(
                f"{self.directory.metrics} has {counted(len(lines), 'line')} after {counted(state.round, 'round')}"
            )
        summary = summarise(self, state, status, lines)
        self.directory.write_summary(summary)
        result = TrainingResult(self.directory, status, state.round, summary, self._saving, self._refused)
        self._announce("flctl_run_finished", result=result)
        return result

    def _announce(self, event: str, **values: Any) -> None:
        getattr(self.run.registry.hook, event)(**values)


def summarise(training: Training, state: State, status: Status, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run that ended; all but `seconds` are the same for a run that was cut off and resumed."""
    evaluated = [line for line in lines if training.metric in line]
    known, said = set(report_line(_EMPTY)), finite(transform_statements(training.run, state.transforms, finished=True))
    return {
        "format": "flctl-summary/1",
        "status": status,
        "rounds": state.round,
        "metric": training.metric,
        "split": training.run.selection_split,
        "best": {"round": training.progress.best_round, "value": training.progress.best_value},
        "final": {key: value for key, value in evaluated[-1].items() if key not in known} if evaluated else {},
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "failures": sum(len(line["failed"]) for line in lines),
        "seconds": round(sum(line["seconds"]["total"] for line in lines), 3),
        "versions": versions(),
        **({"transforms": said} if said else {}),
    }


_EMPTY = RoundReport(0, 0, 0, {}, 0, None, {}, 0, 0, {}, split="test")


def states_of(state: State) -> dict[str, Arrays]:
    """The states as a checkpoint names them: "strategy", "transform.NAME"."""
    return {"strategy": state.strategy, **{f"transform.{name}": s for name, s in state.transforms.items()}}


def state_of(checkpoint: Checkpoint) -> State:
    """The server's state that a checkpoint holds."""
    transforms = {n.removeprefix("transform."): s for n, s in checkpoint.states.items() if n.startswith("transform.")}
    return State(checkpoint.round, checkpoint.params, checkpoint.states["strategy"], transforms)

"""Progress of a training run: a live line on a terminal, a plain line per round elsewhere, or JSON events."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flctl.config.config import AUTO, DEFAULT_MODELS
from flctl.errors import counted
from flctl.plugins.hookspecs import hookimpl
from flctl.run.directory import report_line

if TYPE_CHECKING:
    from flctl.run.run import Run
    from flctl.server.training import Started
    from flctl.types import ClientProgress, RoundReport, WaitingRound

__all__ = ["JsonEvents", "LiveProgress", "PlainLines", "observer", "round_text", "warnings_of"]

DEVICES = ("absent", "late", "partial", "surplus")


def observer(*, as_json: bool) -> JsonEvents | LiveProgress | PlainLines:
    """The observer that fits: JSON events on stderr, a live line, or plain lines."""
    if as_json:
        return JsonEvents()
    return LiveProgress() if sys.stderr.isatty() else PlainLines()


def round_text(report: RoundReport) -> str:
    """A round in one line: loss, metrics, clients and seconds."""
    parts = [] if report.loss is None else [f"loss {report.loss:.4f}"]
    parts += [f"{name} {value:.4f}" for name, value in report.metrics.items()]
    parts.append(f"clients {report.answered}/{report.asked}")
    parts += [f"malicious {report.attackers}"] if report.attackers else []
    parts += [f"{name} {report.devices[name]}" for name in DEVICES if report.devices.get(name)]
    parts.append(f"{report.seconds['total']:.2f} s")
    parts += [f"simulated {report.devices['seconds']:.4g} s"] if "seconds" in report.devices else []
    return "  ".join(parts)


def warnings_of(report: RoundReport) -> list[str]:
    """A sentence for each client that failed, and for what went wrong and was mended."""
    failed = (f"client '{client}' failed ({f.kind}): {f.message}" for client, f in report.failed.items())
    texts = (f"round {report.round}: {text}" for text in (*failed, *report.notes))
    return [_printable(text) for text in texts]


def _printable(text: str) -> str:
    """Returns the text without control characters: ids come from data, messages from clients, and neither may act on
    the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def waiting_text(waiting: WaitingRound) -> str:
    """A round that cannot start, in one line: the clients that are away, and how many it needs."""
    return _printable(
        f"round {waiting.round} waits for {waiting.named(3)}: it needs {waiting.needed} of its clients, "
        f"{waiting.present} available"
    )


def progress_text(progress: ClientProgress) -> str:
    """Returns how far a client is, in words: "st-marys step 340 of 900"."""
    steps = f"step {progress.step} of {progress.steps}" if progress.stage == "training" else progress.stage
    return _printable(f"{progress.client} {steps}")


def _model(run: Run) -> str:
    """The model's name, and for `auto` the one that it stands for."""
    name = run.config.model.name
    return f"{DEFAULT_MODELS[run.partition.task]} (auto)" if name == AUTO else name


def opening(started: Started) -> str:
    """Returns one line that describes the run to be trained."""
    run = started.run
    goes_on = f", after round {started.after_round}" if started.after_round else ""
    layers = "".join(f" + {name}" for name in run.transforms)
    malicious = (
        f" ({len(run.adversary.malicious)} malicious: {run.config.attack.name})" if run.adversary.attacks else ""
    )
    return (
        f"{run.strategy.name}{layers} over {counted(run.partition.clients, 'client')}{malicious}, model "
        f"{_model(run)} "
        f"({run.division.layout['params']:,} parameters), {counted(started.rounds, 'round')}{goes_on} -> "
        f"{started.directory.path}"
    )


class Watching:
    """An observer that is closed when the run ends or fails."""

    def close(self) -> None:
        """Gives back what it holds."""


class PlainLines(Watching):
    """One line per round on stderr."""

    @hookimpl
    def flctl_run_started(self, run: Started) -> None:
        self._rounds = run.rounds
        print(opening(run), file=sys.stderr, flush=True)

    @hookimpl
    def flctl_round_waits(self, waiting: WaitingRound) -> None:
        print(waiting_text(waiting), file=sys.stderr, flush=True)

    @hookimpl
    def flctl_client_progress(self, progress: ClientProgress) -> None:
        if progress.stage != "training":  # a line for each step would be too many
            print(f"round {progress.round}: {progress_text(progress)}", file=sys.stderr, flush=True)

    @hookimpl
    def flctl_round_finished(self, report: RoundReport) -> None:
        for text in warnings_of(report):
            print(f"warning: {text}", file=sys.stderr)
        print(f"round {report.round}/{self._rounds}  {round_text(report)}", file=sys.stderr, flush=True)


class LiveProgress(Watching):
    """A bar with the time left and, on a line of its own, the newest round's figures; both go when the run ends.

    Two lines, because one of them fits no terminal of 80 columns: the bar keeps round, total and time, and the figures
    are cut at the right edge.
    """

    @hookimpl
    def flctl_run_started(self, run: Started) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._console.print(opening(run), markup=False)
        columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("left"), console=self._console)
        self._stages: dict[str, str] = {}
        self._task = self._bar.add_task("rounds", total=run.rounds, completed=run.after_round)
        self._live = Live(self._bar, console=self._console, transient=True, refresh_per_second=8)
        self._live.start()

    @hookimpl
    def flctl_round_waits(self, waiting: WaitingRound) -> None:
        self._console.print(waiting_text(waiting), markup=False)

    @hookimpl
    def flctl_client_progress(self, progress: ClientProgress) -> None:
        self._stages[progress.client] = progress_text(progress)
        self._show("  ".join(self._stages.values()))

    def _show(self, text: str) -> None:
        """Shows a line under the bar, cut at the right edge."""
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(self._bar, Text(text, no_wrap=True, overflow="ellipsis")))

    @hookimpl
    def flctl_round_finished(self, report: RoundReport) -> None:
        for text in warnings_of(report):
            self._console.print(f"warning: {text}", markup=False)
        self._bar.update(self._task, completed=report.round)
        self._stages.clear()
        self._show(round_text(report))

    def close(self) -> None:
        """Gives the terminal back."""
        if hasattr(self, "_live"):
            self._live.stop()


class JsonEvents(Watching):
    """One JSON object per event on stderr; the result is the envelope on stdout."""

    @hookimpl
    def flctl_run_started(self, run: Started) -> None:
        self._write("started", run=str(run.directory.path), after_round=run.after_round, rounds=run.rounds)

    @hookimpl
    def flctl_round_waits(self, waiting: WaitingRound) -> None:
        self._write("waiting", **asdict(waiting))

    @hookimpl
    def flctl_client_progress(self, progress: ClientProgress) -> None:
        self._write("client", **asdict(progress))

    @hookimpl
    def flctl_round_finished(self, report: RoundReport) -> None:
        self._write("round", **report_line(report))

    def _write(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=sys.stderr, flush=True)

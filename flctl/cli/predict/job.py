"""The work of `flctl predict`, and its report; loaded when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.cli import output
from flctl.cli.hidden import DISCLOSED, refuse_personal
from flctl.cli.session import current_registry
from flctl.data.encoding import Tally
from flctl.errors import ConfigError, DataError, counted
from flctl.evaluation.binary import Decision
from flctl.metrics import positive_code
from flctl.prediction.characters import continued, read_prompts
from flctl.prediction.outputs import Summary, predictions_of
from flctl.prediction.predictor import Predictor, load_predictor
from flctl.prediction.rows import RowOptions, new_rows, spooled
from flctl.prediction.writer import STDOUT, Columns, check_out, opened_sink, table_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PredictRequest", "Predicted", "run"]

SHOWN = 8


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """The arguments of `flctl predict`."""

    run: Path
    rows: str
    out: str
    checkpoint: str
    client: str | None
    options: RowOptions
    characters: int | None
    threshold: float | None = None
    positive: str | None = None
    disclose: bool = False


@dataclass(frozen=True, slots=True)
class Predicted:
    """A finished prediction: the model, counts of what was not as in training, and of what was predicted."""

    request: PredictRequest
    predictor: Predictor
    tally: Tally
    summary: Summary | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""
        bad = self.summary.not_finite if self.summary else 0
        finite = (f"{counted(bad, 'row')} without a prediction: the model's outputs are not finite",) if bad else ()
        return (*self.predictor.notes, *self.tally.notes, *finite)

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope."""
        summary, fitted, tally = self.summary, self.predictor.fitted, self.tally
        data: dict[str, Any] = {
            "run": self.predictor.name,
            "round": self.predictor.round,
            "client": self.predictor.client,
            "rows": self.tally.rows,
            "path": self.request.out,
            "threshold": self.request.threshold,
            "task": fitted.task,
            "unseen": {name: {"rows": n, "examples": tally.examples[name]} for name, n in tally.unseen.items()},
            "missing": tally.missing,
            "ignored": list(tally.ignored),
            "notes": list(self.notes),
        }
        if summary is not None and fitted.classes:
            data["predicted"] = dict(zip(fitted.classes, summary.by_class.tolist(), strict=True))
        elif summary is not None:
            data["predicted"] = {"lowest": summary.low, "mean": summary.mean, "highest": summary.high}
        return data

    def note(self) -> None:
        """One line and the notes, on stderr."""
        output.note(self._headline())
        for sentence in self.notes:
            output.note(f"  {sentence}")

    def render(self, console: Console) -> None:
        """Prints the result as text."""
        console.print(self._headline(), markup=False)
        for sentence in self.notes:
            console.print(f"  {sentence}", markup=False)
        if self.summary is not None:
            self._render_predicted(console, self.summary)

    def _headline(self) -> str:
        whose = f", model of client '{self.predictor.client}'" if self.predictor.client else ""
        where = "" if self.request.out == STDOUT else f" -> {self.request.out}"
        rows = counted(self.tally.rows, "row")
        return f"{self.predictor.name}, round {self.predictor.round}{whose}: {rows} predicted{where}"

    def _render_predicted(self, console: Console, summary: Summary) -> None:
        if summary.fitted.task == "regression":
            line = f"predictions: lowest {summary.low:.6g}, mean {summary.mean:.6g}, highest {summary.high:.6g}"
            console.print(line, markup=False)
            return
        most = np.argsort(-summary.by_class, kind="stable")[:SHOWN]
        counts = [(summary.fitted.classes[code], int(summary.by_class[code])) for code in most]
        rows = [(name, f"{count:,}", f"{count / max(1, summary.rows):.1%}") for name, count in counts]
        output.table(console, ("prediction", "rows", "share"), rows)
        if len(summary.by_class) > SHOWN:
            console.print(
                f"the {SHOWN} most frequent of {counted(len(summary.by_class), 'class', 'classes')}", markup=False
            )


def run(request: PredictRequest, *, as_json: bool) -> Predicted:
    """Predicts, and writes while it reads. Raises FlctlError, and leaves no file then."""
    if as_json and request.out == STDOUT:
        raise ConfigError("--json and predictions both go to stdout", hint="Add --out FILE.")
    check_out(request.out)
    predictor = load_predictor(request.run, request.checkpoint, request.client, current_registry())
    if refuse_personal(predictor, current_registry(), disclose=request.disclose):
        predictor = replace(predictor, notes=(*predictor.notes, f"--disclose: a model of one client, {DISCLOSED}"))
    text = predictor.fitted.task == "next-character"
    _decision(request, predictor)
    if request.characters is not None and not text:
        raise ConfigError(f"--characters is for text, and the task is {predictor.fitted.task}", hint="Leave it out.")
    with spooled(request.rows) as source:
        done = (_predict_text if text else _predict)(request, predictor, source)
    if not done.tally.rows:
        raise DataError(f"{request.rows} has no rows")
    return done


def _decision(request: PredictRequest, predictor: Predictor) -> Decision | None:
    """The rule of --threshold. Raises ConfigError if the model does not predict one of two classes."""
    fitted = predictor.fitted
    if request.threshold is None:
        if request.positive is not None:
            raise ConfigError(
                "--positive names the class of --threshold, which is not given", hint="Add --threshold T."
            )
        return None
    if len(fitted.classes) != 2 or fitted.task not in ("binary", "classification"):
        found = counted(len(fitted.classes), "class", "classes") if fitted.classes else fitted.task
        raise ConfigError(f"--threshold needs two classes, and the model has {found}", hint="Leave it out.")
    name = request.positive or predictor.config.eval.positive
    return Decision(positive_code(fitted.classes, name), request.threshold)


def _predict(request: PredictRequest, predictor: Predictor, source: str) -> Predicted:
    decision = _decision(request, predictor)
    rows = new_rows(source, predictor.fitted, request.options, current_registry())
    summary = Summary(predictor.fitted)
    blocks = iter(rows.blocks)
    first = next(blocks, None)
    if first is None:
        raise DataError(f"{request.rows} has no rows")
    with opened_sink(request.out, Columns.of(predictor.fitted, rows.columns)) as sink, _progress(rows.tally) as advance:
        for block in _chained(first, blocks):
            found = predictions_of(predictor.outputs(block.x), predictor.fitted, decision)
            sink.write(table_of(found, block.first, block.words, predictor.fitted))
            summary.add(found)
            advance()
    return Predicted(request, predictor, rows.tally, summary)


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _predict_text(request: PredictRequest, predictor: Predictor, source: str) -> Predicted:
    options, tally = request.options, Tally()
    if options.unseen == "other" or options.keep or options.reader:
        raise ConfigError(
            "--unseen other, --keep and --reader are for other sources than text",
            hint="Use --unseen zeros (leaves unknown characters out) or --unseen refuse.",
        )
    prompts = read_prompts(source)
    parts = continued(predictor, prompts, request.characters or 1, tally, refuse=options.unseen == "refuse")
    with opened_sink(request.out, Columns.of_text(prompts.columns)) as sink, _progress(tally) as advance:
        for part in parts:
            rows = range(part.first, part.first + len(part.texts))
            sink.write({"row": rows, **part.words, "next": part.texts, "probability": part.probability})
            advance()
    return Predicted(request, predictor, tally, None)


@contextmanager
def _progress(tally: Tally) -> Iterator[Any]:
    """A live count of rows on a terminal; nothing elsewhere."""
    console = output.stderr()
    if not console.is_terminal:
        yield lambda: None
        return
    with console.status("predicting") as status:
        yield lambda: status.update(f"{counted(tally.rows, 'row')} predicted")

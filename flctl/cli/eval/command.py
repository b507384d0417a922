"""`flctl eval`: how good models are, centrally and client by client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.complete import complete_models, complete_partitions, complete_runs
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from flctl.evaluation.evaluate import Evaluated
    from flctl.evaluation.load import LoadedModel
    from flctl.types import TaskKind

__all__ = ["register"]

WHAT, SHOWN, ELSEWHERE = "Evaluation", "Output", "A model from a file"

HELP = """
Evaluate models on test rows: centrally, over all clients, and per client. Several models are shown side by side,
with their differences from the first.

Examples:

    flctl eval runs/digits --per-client

    flctl eval runs/fedavg runs/fedprox --checkpoint best --plot clients.png

    flctl eval runs/digits --data parts/other --predictions predictions.csv

    flctl eval --model-file net.safetensors --model mlp --data parts/digits
"""


class TrainedRowsChoice(StrEnum):
    """Treatments of rows in a file that the model was trained on."""

    refuse = "refuse"
    leave_out = "leave-out"
    keep = "keep"


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """The arguments of `flctl eval`."""

    runs: Sequence[Path]
    checkpoint: str
    data: Path | None
    batch_size: int | None
    metric: str | None
    model_file: Path | None
    model: str | None
    config: Path | None
    override: Sequence[str]
    predictions: Path | None
    csv: Path | None
    plot: Path | None
    trained_rows: TrainedRowsChoice


DataOption = Annotated[
    Path | None,
    option(
        "--data",
        metavar="DIR|FILE",
        help="Another partition, or labelled rows of a file, to evaluate on.",
        panel=WHAT,
        autocompletion=complete_partitions,
    ),
]
TrainedRowsOption = Annotated[
    TrainedRowsChoice,
    option("--trained-rows", help="Rows of --data that were trained on: refuse, leave-out, keep.", panel=WHAT),
]


def register(app: typer.Typer) -> None:
    """Adds `eval` to the application."""
    app.command("eval", help=HELP)(evaluate)


def evaluate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run directories.", autocompletion=complete_runs)
    ] = None,
    checkpoint: Annotated[str, option("--checkpoint", help="A round, best or last (default).", panel=WHAT)] = "last",
    data: DataOption = None,
    trained_rows: TrainedRowsOption = TrainedRowsChoice.refuse,
    batch_size: Annotated[int | None, option("--batch-size", min=1, help="Rows per batch.", panel=WHAT)] = None,
    metric: Annotated[
        str | None, option("--metric", help="Metric to order clients by (default: accuracy or rmse).", panel=SHOWN)
    ] = None,
    per_client: Annotated[bool, option("--per-client", help="Show the metrics of each client.", panel=SHOWN)] = False,
    disclose: Annotated[
        bool,
        option("--disclose", help="Show metrics over clients even if the run's aggregator hides clients.", panel=SHOWN),
    ] = False,
    confusion: Annotated[bool, option("--confusion", help="Show the confusion matrix.", panel=SHOWN)] = False,
    predictions: Annotated[
        Path | None, option("--predictions", help="Write each row's prediction: .csv or .npz.", panel=SHOWN)
    ] = None,
    csv: Annotated[Path | None, option("--csv", help="Write the metrics of each client: .csv.", panel=SHOWN)] = None,
    plot: Annotated[
        Path | None, option("--plot", help="Draw the spread over clients: .png or .svg.", panel=SHOWN)
    ] = None,
    model_file: Annotated[Path | None, option("--model-file", help="A .safetensors file.", panel=ELSEWHERE)] = None,
    model: Annotated[
        str | None,
        option("--model", help="Name of the model in that file.", panel=ELSEWHERE, autocompletion=complete_models),
    ] = None,
    config: Annotated[
        Path | None, option("--config", help="A YAML file with the model's options under `model:`.", panel=ELSEWHERE)
    ] = None,
    override: Annotated[
        list[str] | None,
        option(
            "-o", "--override", metavar="KEY=VALUE", help="Options of the model, as model.hidden=64.", panel=ELSEWHERE
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    asked = (runs or (), checkpoint, data, batch_size, metric)
    request = EvalRequest(*asked, model_file, model, config, override or (), predictions, csv, plot, trained_rows)
    _refuse_early(request)
    subjects = [_disclosed(one, request, per_client=per_client, disclose=disclose) for one in _subjects(request)]
    if confusion:
        _refuse_confusion(subjects)
    _print(request, subjects, as_json=as_json, per_client=per_client, confusion=confusion)


def _refuse_confusion(subjects: Sequence[LoadedModel]) -> None:
    from flctl.errors import ConfigError

    for subject in subjects:
        if subject.partition.task == "regression":
            raise ConfigError(
                f"--confusion needs classes, and {subject.name} is a regression", hint="Leave out --confusion."
            )


def _disclosed(subject: LoadedModel, request: EvalRequest, *, per_client: bool, disclose: bool) -> LoadedModel:
    """The subject, with a note if its aggregator hides clients and `disclose` shows them. Raises IncompatibleError if
    single clients are asked for without it."""
    from dataclasses import replace

    from flctl.errors import IncompatibleError

    if subject.hidden_by is None:
        return subject
    if disclose:
        told = f"--disclose: the output has metrics over clients, which aggregator '{subject.hidden_by}' hides"
        return replace(subject, hidden_by=None, notes=(*subject.notes, told))
    if per_client or request.csv is not None or request.plot is not None:
        raise IncompatibleError(
            f"numbers of single clients of {subject.name}: its aggregator '{subject.hidden_by}' hides clients",
            hint="Leave out --per-client, --csv and --plot, or add --disclose if you may see them.",
        )
    return subject


def _print(
    request: EvalRequest, subjects: Sequence[LoadedModel], *, as_json: bool, per_client: bool, confusion: bool
) -> None:
    from flctl.cli.eval.tables import render
    from flctl.report.evaluation import as_data, compare

    _refuse_gone(subjects, per_client=per_client)
    models = [model for subject in subjects for model in _assessed(subject, request.batch_size)]
    metric = _metric(request.metric, models, subjects[0].partition.task)
    comparisons = [compare(models[0], other) for other in models[1:]]
    data = as_data(models, comparisons, metric, per_client=per_client, confusion=confusion)
    data["written"] = [str(path) for path in _write(request, models, subjects, metric)]
    output.emit(
        "eval",
        data,
        as_json=as_json,
        render=lambda console: render(console, models, comparisons, metric, per_client=per_client, confusion=confusion),
    )
    for path in data["written"]:
        output.note(f"wrote {path}")


def _refuse_gone(subjects: Sequence[LoadedModel], *, per_client: bool) -> None:
    """With `per_client`, raises the error that makes clients' own models unavailable.

    Otherwise the global model's metrics would be taken for those of the clients' own models.
    """
    for subject in subjects if per_client else ():
        if subject.own_models is not None and subject.own_models.gone is not None:
            raise subject.own_models.gone


def _assessed(subject: LoadedModel, batch_size: int | None) -> Iterator[Evaluated]:
    """The model's evaluation, and after it that of the clients' own models where they have any."""
    from dataclasses import replace

    from flctl.evaluation.load import assess, assess_own_models

    model, own = assess(subject, batch_size), subject.own_models
    if own is not None and own.gone is not None:
        model = replace(model, notes=(*model.notes, f"clients' own models are not shown: {own.gone.message}"))
    yield model
    personal = assess_own_models(subject, batch_size)
    if personal is not None:
        yield personal


def _refuse_early(request: EvalRequest) -> None:
    """Raises ConfigError for invalid arguments before any model runs."""
    from flctl import atomic
    from flctl.errors import ConfigError
    from flctl.metrics import higher_is_better
    from flctl.report import figure, predictions

    for holds, message, hint in _contradictions(request):
        if holds:
            raise ConfigError(message, hint=hint)
    if request.metric is not None:
        higher_is_better(request.metric)
    if request.predictions is not None:
        predictions.format_of(request.predictions)
    if request.plot is not None:
        figure.format_of(request.plot)
    for path in filter(None, (request.predictions, request.csv, request.plot)):
        atomic.refuse_existing(path)


def _contradictions(request: EvalRequest) -> Iterator[tuple[bool, str, str]]:
    """Yields each contradiction between arguments: (True if it holds, message, hint)."""
    elsewhere, described = request.model_file is not None, bool(request.model or request.config)
    yield (
        not request.runs and not elsewhere,
        "nothing to evaluate",
        "Name run directories, or --model-file with --model and --data.",
    )
    yield (
        not elsewhere and (described or bool(request.override)),
        "--model, --config and -o describe the model of --model-file, which is not given",
        "Leave them out: a run records its model.",
    )
    yield elsewhere and not described, "--model-file needs --model NAME", "Name the model whose tensors the file holds."
    yield (
        elsewhere and not request.runs and request.data is None,
        "--model-file needs --data",
        "Name the partition to evaluate it on.",
    )
    yield (
        elsewhere and request.data is not None and _is_raw(request.data),
        "--model-file needs a partition as --data: a file's rows are encoded by a run's preprocessing",
        "Partition the rows first: flctl partition FILE --test-fraction 0.5 --out DIR",
    )
    yield (
        request.predictions is not None and len(request.runs) + elsewhere != 1,
        "--predictions takes one model",
        "Evaluate one model per call of `flctl eval --predictions`.",
    )


def _subjects(request: EvalRequest) -> list[LoadedModel]:
    from flctl.config.config import Flag
    from flctl.evaluation.load import from_run, from_weights

    registry = current_registry()
    if request.data is not None and _is_raw(request.data):
        subjects = [_on_rows(path, request.data, request) for path in request.runs]
    else:
        asked = (request.checkpoint, request.data, registry, request.trained_rows.value)
        subjects = [from_run(path, *asked) for path in request.runs]
    if request.model_file is not None:
        flags = {"model.name": Flag("--model", request.model)} if request.model else {}
        data = request.data or subjects[0].partition.path
        subjects.append(from_weights(request.model_file, request.config, flags, request.override, data, registry))
    _refuse_mixed(subjects)
    return subjects


def _is_raw(data: Path) -> bool:
    """True for a source of rows: anything that is no partition."""
    return data.is_file() or (data.is_dir() and not (data / "manifest.json").exists())


def _on_rows(run: Path, data: Path, request: EvalRequest) -> LoadedModel:
    from flctl.prediction.labelled import from_rows
    from flctl.prediction.rows import RowOptions

    return from_rows(run, request.checkpoint, data, RowOptions(), request.trained_rows.value, current_registry())


def _refuse_mixed(subjects: Sequence[LoadedModel]) -> None:
    from flctl.errors import IncompatibleError

    tasks = {subject.name: subject.partition.task for subject in subjects}
    if len(set(tasks.values())) > 1:
        found = ", ".join(f"{name} is {task}" for name, task in tasks.items())
        raise IncompatibleError(f"models of different tasks have no metric in common: {found}")


def _metric(asked: str | None, models: Sequence[Evaluated], task: TaskKind) -> str:
    """Returns the metric to order clients by. Raises ConfigError for a metric that clients do not have."""
    from flctl.errors import ConfigError
    from flctl.report.evaluation import client_metrics

    known = client_metrics(models[0].evaluation.clients)
    if asked is not None and asked not in known:
        raise ConfigError(f"clients have no metric '{asked}' in {task}", hint=f"Known: {', '.join(known)}.")
    return asked or models[0].evaluation.headline.metric


def _write(
    request: EvalRequest, models: Sequence[Evaluated], subjects: Sequence[LoadedModel], metric: str
) -> list[Path]:
    from flctl.report.clients import draw_clients
    from flctl.report.predictions import write_client_numbers, write_predictions

    if request.plot is not None:
        draw_clients({model.name: model.evaluation.clients for model in models}, metric, request.plot)
    if request.csv is not None:
        write_client_numbers(request.csv, models)
    if request.predictions is not None:
        write_predictions(request.predictions, models[0], subjects[0].partition)
    return [path for path in (request.plot, request.csv, request.predictions) if path is not None]

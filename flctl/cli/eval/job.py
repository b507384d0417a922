"""`flctl eval`: loads models, evaluates them, and writes and prints what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flctl.cli import output
from flctl.cli.eval.arguments import EvalRequest, Reading, Shown
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from flctl.evaluation.evaluate import Evaluated
    from flctl.evaluation.thresholds import ChosenThreshold, Split
    from flctl.report.evaluation import Grouped
    from flctl.stored.load import LoadedModel
    from flctl.types import TaskKind

__all__ = ["disclosed", "run"]


def _refuse_regression(subjects: Sequence[LoadedModel], asked: Mapping[str, bool]) -> None:
    from flctl.errors import ConfigError

    for name in (name for name, wanted in asked.items() if wanted):
        for subject in subjects:
            if subject.partition.task == "regression":
                raise ConfigError(
                    f"{name} needs classes, and {subject.name} is a regression", hint=f"Leave out {name}."
                )


def disclosed(subject: LoadedModel, request: EvalRequest, *, per_client: bool, disclose: bool) -> LoadedModel:
    """The subject, with a note if its aggregator hides clients and `disclose` shows them. Raises IncompatibleError if
    single clients are asked for without it."""
    from dataclasses import replace

    from flctl.errors import IncompatibleError

    if subject.hidden_by is None:
        return subject
    if disclose:
        note = f"--disclose: the output has metrics over clients, which aggregator '{subject.hidden_by}' hides"
        return replace(subject, hidden_by=None, notes=(*subject.notes, note))
    if per_client or request.csv is not None or request.by is not None or _draws_clients(request):
        raise IncompatibleError(
            f"numbers of single clients of {subject.name}: its aggregator '{subject.hidden_by}' hides clients",
            hint="Leave out --per-client, --csv, --by and panels of clients, or add --disclose if you may see them.",
        )
    return subject


def run(request: EvalRequest, shown: Shown, *, as_json: bool, disclose: bool) -> None:
    """Evaluates, writes what is asked for, and prints."""
    from flctl.cli.eval.tables import render
    from flctl.report.evaluation import as_data, compare

    _refuse_early(request)
    subjects = [disclosed(one, request, per_client=shown.per_client, disclose=disclose) for one in _subjects(request)]
    _refuse_regression(subjects, {"--confusion": shown.confusion, "--per-class": shown.per_class})
    _refuse_gone(subjects, per_client=shown.per_client)
    assessed = [(subject, model) for subject in subjects for model in _assessed(subject, request)]
    models = [model for _, model in assessed]
    metric = _metric(request.metric, models, subjects[0].partition.task)
    comparisons = [compare(models[0], other) for other in models[1:]]
    groups = None if request.by is None else _grouped(assessed, request.by)
    data = as_data(models, comparisons, metric, groups=groups, **asdict(shown))
    data["written"] = [str(path) for path in _write(request, models, subjects, metric)]
    output.emit(
        "eval",
        data,
        as_json=as_json,
        render=lambda console: render(console, models, comparisons, metric, groups=groups, **asdict(shown)),
    )
    for path in data["written"]:
        output.note(f"wrote {path}")


def _grouped(assessed: Sequence[tuple[LoadedModel, Evaluated]], by: str) -> Grouped:
    from flctl.evaluation.subgroups import column_words, subgroups
    from flctl.report.evaluation import Grouped

    found = {}
    for subject, model in assessed:
        words = subject.words[by] if by in subject.words else column_words(subject.partition, by)
        if len(words) == len(model.evaluation.central_outcomes):
            found[model.name] = subgroups(model.evaluation, tuple(model.classes), words)
    return Grouped(by, found)


def _draws_clients(request: EvalRequest) -> bool:
    return request.panels is not None and any(
        name.strip() in ("clients", "sizes") for name in request.panels.split(",")
    )


def _refuse_gone(subjects: Sequence[LoadedModel], *, per_client: bool) -> None:
    """With `per_client`, raises the error that makes clients' own models unavailable.

    Otherwise the global model's metrics would be taken for those of the clients' own models.
    """
    for subject in subjects if per_client else ():
        if subject.own_models is not None and subject.own_models.gone is not None:
            raise subject.own_models.gone


def _assessed(subject: LoadedModel, request: EvalRequest) -> Iterator[Evaluated]:
    """The model's evaluation, and after it that of the clients' own models where they have any."""
    from dataclasses import replace

    from flctl.stored.load import assess, assess_own_models

    size, threshold = request.batch_size, _threshold(subject, request)
    model, own = assess(subject, size, threshold), subject.own_models
    if own is not None and own.gone is not None:
        model = replace(model, notes=(*model.notes, f"clients' own models are not shown: {own.gone.message}"))
    yield _with_intervals(model)
    personal = assess_own_models(subject, size, threshold)
    if personal is not None:
        yield _with_intervals(personal)


def _threshold(subject: LoadedModel, request: EvalRequest) -> ChosenThreshold | None:
    from flctl.evaluation.thresholds import parse_rule
    from flctl.stored.threshold_rows import threshold_of

    if request.threshold is None:
        return None
    split: Split | None = None if request.threshold_on is None else request.threshold_on.value
    return threshold_of(subject, parse_rule(request.threshold), split, request.batch_size)


def _with_intervals(model: Evaluated) -> Evaluated:
    from dataclasses import replace

    from flctl.evaluation.intervals import intervals
    from flctl.stored.threshold_rows import note_of

    evaluation = model.evaluation
    found = intervals(evaluation.central_outcomes, len(model.classes), evaluation.decision.positive)
    note = None if model.threshold is None else note_of(model.threshold)
    return replace(model, intervals=found, notes=model.notes if note is None else (*model.notes, note))


def _refuse_early(request: EvalRequest) -> None:
    """Raises ConfigError for invalid arguments before any model runs."""
    from flctl import atomic
    from flctl.errors import ConfigError
    from flctl.evaluation.thresholds import parse_rule
    from flctl.metrics import higher_is_better
    from flctl.report import figure, predictions
    from flctl.report.panels import panels_of

    for holds, message, hint in _contradictions(request):
        if holds:
            raise ConfigError(message, hint=hint)
    if request.metric is not None:
        higher_is_better(request.metric)
    if request.threshold is not None:
        parse_rule(request.threshold)
    panels_of(request.panels)
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
    yield (
        request.reading != Reading() and (request.data is None or not _is_raw(request.data)),
        "--unseen, --reader and --reader-option are for the rows of a file",
        "Name the file with --data, or leave them out.",
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
        request.threshold is None and request.threshold_on is not None,
        "--threshold-on chooses the rows of --threshold, which is not given",
        "Add for example --threshold youden.",
    )
    yield (
        request.panels is not None and request.plot is None,
        "--panels chooses what --plot draws, which is not given",
        "Add --plot FILE.",
    )
    yield (
        request.predictions is not None and len(request.runs) + elsewhere != 1,
        "--predictions takes one model",
        "Evaluate one model per call of `flctl eval --predictions`.",
    )


def _subjects(request: EvalRequest) -> list[LoadedModel]:
    from flctl.config.config import Flag
    from flctl.stored.load import from_run, from_weights

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
    return [_as_positive(subject, request.positive) for subject in subjects]


def _as_positive(subject: LoadedModel, name: str | None) -> LoadedModel:
    """The model with the positive class of that name. Raises ConfigError if it is not a class."""
    from dataclasses import replace

    from flctl.metrics import positive_code

    if name is None:
        return subject
    positive_code(subject.partition.classes, name)
    return replace(subject, positive=name)


def _is_raw(data: Path) -> bool:
    """True for a source of rows: anything that is no partition."""
    return data.is_file() or (data.is_dir() and not (data / "manifest.json").exists())


def _on_rows(run: Path, data: Path, request: EvalRequest) -> LoadedModel:
    from flctl.prediction.labelled import from_rows
    from flctl.prediction.rows import RowOptions

    reading = request.reading
    options = RowOptions(
        reader=reading.reader,
        reader_options=output.parse_pairs(reading.options),
        unseen=reading.unseen.value,
        keep=() if request.by is None else (request.by,),
    )
    return from_rows(run, request.checkpoint, data, options, request.trained_rows.value, current_registry())


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
    from flctl.report.panels import draw_panels, panels_of
    from flctl.report.predictions import write_client_numbers, write_predictions

    if request.plot is not None:
        draw_panels(models, panels_of(request.panels), metric, request.plot)
    if request.csv is not None:
        write_client_numbers(request.csv, models)
    if request.predictions is not None:
        write_predictions(request.predictions, models[0], subjects[0].partition)
    return [path for path in (request.plot, request.csv, request.predictions) if path is not None]

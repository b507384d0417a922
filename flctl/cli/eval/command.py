"""`flctl eval`: metrics of models, centrally and client by client."""

from __future__ import annotations

from dataclasses import replace

import typer

from flctl.cli.eval.arguments import (
    BatchSizeOption,
    ByOption,
    CheckpointOption,
    ConfigOption,
    ConfusionOption,
    CsvOption,
    DataOption,
    DiscloseOption,
    EvalRequest,
    MetricOption,
    ModelFileOption,
    ModelOption,
    OverrideOption,
    PanelsOption,
    PerClassOption,
    PerClientOption,
    PlotOption,
    PositiveOption,
    PredictionsOption,
    ReaderOption,
    ReaderOptions,
    Reading,
    RunsArgument,
    Shown,
    ThresholdOnOption,
    ThresholdOption,
    TrainedRowsChoice,
    TrainedRowsOption,
    UnseenOption,
)
from flctl.cli.output import JsonFlag
from flctl.cli.predict.command import UnseenChoice

__all__ = ["register"]

HELP = """
Evaluate models on test rows: centrally, over all clients, and per client. Several models are shown side by side,
with their differences from the first.

Examples:

    flctl eval runs/digits --per-client

    flctl eval runs/fedavg runs/fedprox --checkpoint best --plot clients.png

    flctl eval runs/breast --positive malignant --threshold sensitivity=0.95

    flctl eval runs/census --by sex --plot curves.png

    flctl eval runs/digits --data parts/other --predictions predictions.csv

    flctl eval --model-file net.safetensors --model mlp --data parts/digits
"""


def register(app: typer.Typer) -> None:
    """Adds `eval` to the application."""
    app.command("eval", help=HELP)(evaluate)


def evaluate(
    runs: RunsArgument = None,
    checkpoint: CheckpointOption = "last",
    data: DataOption = None,
    trained_rows: TrainedRowsOption = TrainedRowsChoice.refuse,
    unseen: UnseenOption = UnseenChoice.zeros,
    reader: ReaderOption = None,
    reader_option: ReaderOptions = None,
    batch_size: BatchSizeOption = None,
    metric: MetricOption = None,
    threshold: ThresholdOption = None,
    threshold_on: ThresholdOnOption = None,
    positive: PositiveOption = None,
    by: ByOption = None,
    per_class: PerClassOption = False,
    panels: PanelsOption = None,
    per_client: PerClientOption = False,
    disclose: DiscloseOption = False,
    confusion: ConfusionOption = False,
    predictions: PredictionsOption = None,
    csv: CsvOption = None,
    plot: PlotOption = None,
    model_file: ModelFileOption = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    override: OverrideOption = None,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.cli.eval import job

    asked = (runs or (), checkpoint, data, batch_size, metric)
    request = EvalRequest(*asked, model_file, model, config, override or (), predictions, csv, plot, trained_rows)
    request = replace(request, threshold=threshold, threshold_on=threshold_on, positive=positive, by=by, panels=panels)
    request = replace(request, reading=Reading(unseen, reader, reader_option or ()))
    shown = Shown(per_client=per_client, per_class=per_class, confusion=confusion)
    job.run(request, shown, as_json=as_json, disclose=disclose)

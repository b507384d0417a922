"""The arguments of `flctl eval`, and the options that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.complete import complete_models, complete_partitions, complete_runs
from flctl.cli.flags import option
from flctl.cli.predict.command import UnseenChoice

__all__ = [
    "DECISION",
    "ELSEWHERE",
    "SHOWN",
    "WHAT",
    "EvalRequest",
    "Reading",
    "Shown",
    "SplitChoice",
    "TrainedRowsChoice",
]

WHAT, SHOWN, ELSEWHERE = "Evaluation", "Output", "A model from a file"
DECISION = "Two classes"


class SplitChoice(StrEnum):
    """Rows that a threshold is chosen on."""

    validation = "validation"
    train = "train"
    test = "test"


class TrainedRowsChoice(StrEnum):
    """Treatments of rows in a file that the model was trained on."""

    refuse = "refuse"
    leave_out = "leave-out"
    keep = "keep"


@dataclass(frozen=True, slots=True)
class Reading:
    """Arguments for reading the rows of a file."""

    unseen: UnseenChoice = UnseenChoice.zeros
    reader: str | None = None
    options: Sequence[str] = ()


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
    threshold: str | None = None
    threshold_on: SplitChoice | None = None
    positive: str | None = None
    by: str | None = None
    panels: str | None = None
    reading: Reading = Reading()


@dataclass(frozen=True, slots=True)
class Shown:
    """Tables to print beside the usual ones."""

    per_client: bool = False
    per_class: bool = False
    confusion: bool = False


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
ThresholdOption = Annotated[
    str | None,
    option(
        "--threshold",
        metavar="T|RULE",
        help="Predict the positive class from probability T, or as chosen by youden, sensitivity=0.9, specificity=0.9, "
        "cost=FP:FN.",
        panel=DECISION,
    ),
]
ThresholdOnOption = Annotated[
    SplitChoice | None,
    option("--threshold-on", help="Rows that choose it. Default: validation, else training rows.", panel=DECISION),
]
PositiveOption = Annotated[
    str | None, option("--positive", metavar="CLASS", help="Positive class. Default: the second.", panel=DECISION)
]
ByOption = Annotated[
    str | None, option("--by", metavar="COLUMN", help="Compare the test rows of each value of a column.", panel=SHOWN)
]
PerClassOption = Annotated[
    bool, option("--per-class", help="Show precision, recall, F1 and rows of each class.", panel=SHOWN)
]
PlotOption = Annotated[
    Path | None,
    option("--plot", help="Draw ROC, PR, calibration or residuals, and clients: .png or .svg.", panel=SHOWN),
]
PanelsOption = Annotated[
    str | None,
    option(
        "--panels",
        metavar="A,B",
        help="What --plot draws: roc, pr, reliability, residuals, clients, sizes. Default: all that apply.",
        panel=SHOWN,
    ),
]
TrainedRowsOption = Annotated[
    TrainedRowsChoice,
    option("--trained-rows", help="Rows of --data that were trained on: refuse, leave-out, keep.", panel=WHAT),
]
UnseenOption = Annotated[
    UnseenChoice, option("--unseen", help="FILE: a category that training never had, as in predict.", panel=WHAT)
]
ReaderOption = Annotated[
    str | None, option("--reader", metavar="NAME", help="FILE: reader. Default: detected.", panel=WHAT)
]
ReaderOptions = Annotated[
    list[str] | None,
    option("--reader-option", metavar="KEY=VALUE", help="FILE: reader option; may be repeated.", panel=WHAT),
]
RunsArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN", help="Run directories.", autocompletion=complete_runs)
]
CheckpointOption = Annotated[str, option("--checkpoint", help="A round, best or last (default).", panel=WHAT)]
BatchSizeOption = Annotated[int | None, option("--batch-size", min=1, help="Rows per batch.", panel=WHAT)]
MetricOption = Annotated[
    str | None, option("--metric", help="Metric to order clients by (default: accuracy or rmse).", panel=SHOWN)
]
PerClientOption = Annotated[bool, option("--per-client", help="Show the metrics of each client.", panel=SHOWN)]
DiscloseOption = Annotated[
    bool,
    option("--disclose", help="Show metrics over clients even if the run's aggregator hides clients.", panel=SHOWN),
]
ConfusionOption = Annotated[bool, option("--confusion", help="Show the confusion matrix.", panel=SHOWN)]
PredictionsOption = Annotated[
    Path | None, option("--predictions", help="Write each row's prediction: .csv or .npz.", panel=SHOWN)
]
CsvOption = Annotated[Path | None, option("--csv", help="Write the metrics of each client: .csv.", panel=SHOWN)]
ModelFileOption = Annotated[Path | None, option("--model-file", help="A .safetensors file.", panel=ELSEWHERE)]
ModelOption = Annotated[
    str | None,
    option("--model", help="Name of the model in that file.", panel=ELSEWHERE, autocompletion=complete_models),
]
ConfigOption = Annotated[
    Path | None, option("--config", help="A YAML file with the model's options under `model:`.", panel=ELSEWHERE)
]
OverrideOption = Annotated[
    list[str] | None,
    option("-o", "--override", metavar="KEY=VALUE", help="Options of the model, as model.hidden=64.", panel=ELSEWHERE),
]

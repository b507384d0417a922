"""`flctl predict`: a run's model on new rows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.complete import complete_runs
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag

__all__ = ["UnseenChoice", "register"]

MODEL, ROWS, WRITTEN = "Model", "New rows", "Output"

HELP = """
Predict new rows with a run's model.

ROWS are in the format of the training source, without the target: a CSV, TSV,
ARFF, Parquet or Arrow table with the training table's column names in any
order; .npz, .npy or IDX arrays; a folder of pictures; a .txt; or - for a pipe.
They are encoded and standardised as the training rows were.

Examples:

    flctl predict runs/census new.csv --out predictions.csv

    flctl predict runs/census new.parquet --keep patient --out p.parquet

    zcat new.csv.gz | flctl predict runs/census - | head

    flctl predict runs/breast new.csv --threshold 0.31 --out p.csv

    flctl predict runs/plays line.txt --characters 40
"""


class UnseenChoice(StrEnum):
    """Treatments of a category that training never had."""

    zeros = "zeros"
    other = "other"
    refuse = "refuse"


ThresholdOption = Annotated[
    float | None,
    option(
        "--threshold", min=0, max=1, help="Two classes: probability from which to predict the positive.", panel=MODEL
    ),
]
PositiveOption = Annotated[
    str | None,
    option("--positive", metavar="CLASS", help="Class of --threshold. Default: the run's, or the second.", panel=MODEL),
]

DiscloseOption = Annotated[
    bool, option("--disclose", help="Allow --client even if the run's aggregator hides clients.", panel=MODEL)
]


def register(app: typer.Typer) -> None:
    """Adds `predict` to the application."""
    app.command("predict", help=HELP)(predict)


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", autocompletion=complete_runs)],
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="A file, a folder or glob, or - for standard input.")],
    out: Annotated[
        str,
        option("--out", metavar="FILE", help="A .csv or .parquet file, or - (default): CSV on stdout.", panel=WRITTEN),
    ] = "-",
    keep: Annotated[
        str | None, option("--keep", metavar="A,B", help="Columns of ROWS to copy to the output.", panel=WRITTEN)
    ] = None,
    characters: Annotated[
        int | None,
        option("--characters", min=1, max=10_000, help="Text: number of characters. Default 1.", panel=WRITTEN),
    ] = None,
    checkpoint: Annotated[str, option("--checkpoint", help="A round, best or last (default).", panel=MODEL)] = "last",
    client: Annotated[
        str | None, option("--client", metavar="ID", help="Use this client's personal model.", panel=MODEL)
    ] = None,
    threshold: ThresholdOption = None,
    positive: PositiveOption = None,
    unseen: Annotated[
        UnseenChoice,
        option(
            "--unseen",
            help="A category that training never had: zeros (default: all features of its column 0), other, or refuse.",
            panel=ROWS,
        ),
    ] = UnseenChoice.zeros,
    reader: Annotated[
        str | None, option("--reader", metavar="NAME", help="Reader. Default: detected from the file.", panel=ROWS)
    ] = None,
    reader_option: Annotated[
        list[str] | None,
        option("--reader-option", metavar="KEY=VALUE", help="Reader option; may be repeated.", panel=ROWS),
    ] = None,
    disclose: DiscloseOption = False,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.cli.predict import job
    from flctl.prediction.rows import RowOptions

    named = tuple(word.strip() for word in (keep or "").split(",") if word.strip())
    options = RowOptions(reader, output.parse_pairs(reader_option or ()), unseen.value, named)
    request = job.PredictRequest(run, rows, out, checkpoint, client, options, characters, threshold, positive, disclose)
    done = job.run(request, as_json=as_json)
    if out == "-":
        done.note()
        return
    output.emit("predict", done.data(), as_json=as_json, render=done.render)

"""`flctl export`: a run's model as a folder that runs without flctl."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.complete import complete_runs
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag

__all__ = ["ExportFormat", "register"]

MODEL, WRITTEN = "Model", "Output"

HELP = """
Write a run's model as a folder that runs with torch and numpy alone.

It holds the weights, the network as Python source, the preprocessing,
model.py with load_model(), and a model card in Markdown. It holds no rows.

Examples:

    flctl export runs/census --out census-model

    python census-model/model.py new.csv > predictions.csv

    flctl export runs/mnist --checkpoint best --format onnx --out mnist-model
"""


class ExportFormat(StrEnum):
    """Formats of the network: torch, or ONNX beside it."""

    torch = "torch"
    onnx = "onnx"


def register(app: typer.Typer) -> None:
    """Adds `export` to the application."""
    app.command("export", help=HELP)(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", autocompletion=complete_runs)],
    out: Annotated[Path, option("--out", metavar="DIR", help="The directory to create.", panel=WRITTEN)],
    form: Annotated[
        ExportFormat, option("--format", help="torch (default), or onnx to add model.onnx.", panel=WRITTEN)
    ] = ExportFormat.torch,
    checkpoint: Annotated[str, option("--checkpoint", help="A round, best or last (default).", panel=MODEL)] = "last",
    client: Annotated[
        str | None,
        option(
            "--client", metavar="ID", help="Use this client's personal model, if the strategy keeps one.", panel=MODEL
        ),
    ] = None,
    disclose: Annotated[
        bool,
        option("--disclose", help="Allow --client even if the run's aggregator hides clients.", panel=MODEL),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.cli.export import job

    done = job.run(job.ExportRequest(run, out, form.value, checkpoint, client, disclose))
    output.emit("export", done.data(), as_json=as_json, render=done.render)

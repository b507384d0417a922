"""`flctl baselines`: a run beside pooled training, each client alone, and the run without each client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.complete import complete_partitions, complete_runs
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag

__all__ = ["register"]

WHAT, SHOWN = "What is trained", "Output"

HELP = """
Compare a run with training without federation, client by client: does
federation pay, and for whom?

Pooled trains one model on all clients' rows together, alone one on each
client's own rows, leave-one-out repeats the run without each client. Model,
hyperparameters and test rows are those of the run, and each row is visited as
often. Finished baselines are kept in the run and not trained again.

Examples:

    flctl baselines parts/digits --like runs/digits

    flctl baselines --like runs/digits --only alone,pooled --picture pays.png

    flctl baselines --like runs/census --clients Private,State-gov --csv pays.csv
"""


RunOption = Annotated[Path, option("--like", metavar="RUN", help="The run.", panel=WHAT, autocompletion=complete_runs)]
PartArgument = Annotated[
    Path | None,
    typer.Argument(metavar="PART", help="The run's partition, if it was moved.", autocompletion=complete_partitions),
]
KindsOption = Annotated[
    str, option("--only", metavar="KIND,...", help="Of alone, pooled and leave-one-out.", panel=WHAT)
]
ClientsOption = Annotated[
    str | None, option("--clients", metavar="ID,...", help="These clients. Default: up to --limit.", panel=WHAT)
]
LimitOption = Annotated[int, option("--limit", min=1, help="Clients, evenly by size, if there are more.", panel=WHAT)]
RoundsOption = Annotated[
    int | None,
    option("--rounds", min=1, help="Rounds of alone and pooled. Default: those of a client.", panel=WHAT),
]
CheckpointOption = Annotated[str, option("--checkpoint", help="The run's round: a number, best or last.", panel=WHAT)]
YesOption = Annotated[bool, option("--yes", help="Train baselines of a private run.", panel=WHAT)]
MetricOption = Annotated[str | None, option("--metric", help="The metric. Default: the run's.", panel=SHOWN)]
CsvOption = Annotated[Path | None, option("--csv", metavar="FILE", help="Write the numbers.", panel=SHOWN)]
PictureOption = Annotated[
    Path | None, option("--picture", metavar="FILE", help="Draw the clients: .png or .svg.", panel=SHOWN)
]


def register(app: typer.Typer) -> None:
    """Adds `baselines` to the application."""
    app.command("baselines", help=HELP)(baselines)


def baselines(
    like: RunOption,
    data: PartArgument = None,
    only: KindsOption = "alone,pooled,leave-one-out",
    clients: ClientsOption = None,
    limit: LimitOption = 20,
    rounds: RoundsOption = None,
    checkpoint: CheckpointOption = "last",
    yes: YesOption = False,
    metric: MetricOption = None,
    csv: CsvOption = None,
    picture: PictureOption = None,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.cli.baselines import job, tables

    asked = job.BaselinesRequest(
        run=like,
        data=data,
        kinds=job.kinds_of(only),
        clients=clients,
        limit=limit,
        rounds=rounds,
        checkpoint=checkpoint,
        metric=metric,
        csv=csv,
        picture=picture,
        yes=yes,
    )
    found = job.run(asked)
    output.emit("baselines", found.data(), lambda console: tables.render(console, found), as_json=as_json)
    for path in found.written:
        output.note(f"wrote {path}")

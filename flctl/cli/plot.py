"""`flctl plot`: pictures of what runs recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.complete import complete_runs
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag

__all__ = ["register"]

SHOWN = "Output"
AXIS_HELP = "round, bytes, bytes-up, seconds or simulated-seconds (default: round)."

HELP = """
Draw a metric of one or several runs by round, by bytes sent or by time, with a CSV of the numbers.

Examples:

    flctl plot curves runs/fedavg runs/topk --x bytes

    flctl plot curves runs/* --x seconds --metric test_loss --out losses.svg
"""


def register(app: typer.Typer) -> None:
    """Adds `plot` to the application."""
    plot = typer.Typer(no_args_is_help=True, help="Draw what runs recorded.")
    plot.callback()(_group)
    plot.command("curves", help=HELP)(curves)
    app.add_typer(plot, name="plot")


def _group() -> None:
    """Keeps `curves` a subcommand while it is the only one."""


def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", autocompletion=complete_runs, help="Run directories.")],
    x: Annotated[str, option("--x", metavar="AXIS", help=AXIS_HELP, panel=SHOWN)] = "round",
    metric: Annotated[
        str | None, option("--metric", help="The metric (default: accuracy or RMSE).", panel=SHOWN)
    ] = None,
    out: Annotated[
        Path | None, option("--out", help="A new .png or .svg (default: curves-AXIS.png).", panel="Output")
    ] = None,
    disclose: Annotated[
        bool, option("--disclose", help="Allow metrics over clients even if an aggregator hides clients.", panel=SHOWN)
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.evaluation.spread import is_over_clients
    from flctl.report.curves import metric_curves, shown_metric, write_points
    from flctl.run.directory import RunDirectory

    picture = out or Path(f"curves-{x}.png")
    _refuse_early(x, picture)
    lines = {path.as_posix(): RunDirectory(path).lines() for path in runs}
    chosen = metric or shown_metric([row for rows in lines.values() for row in rows])
    over_clients = runs if is_over_clients(chosen) else []
    disclosed = [path for path in over_clients if _hides_clients(path, chosen, disclose=disclose)]
    written = [metric_curves(lines, x, picture, chosen), write_points(lines, picture.with_suffix(".csv"), chosen)]
    data: dict[str, Any] = {"metric": chosen, "x": x, "runs": list(lines), "written": [str(path) for path in written]}
    output.emit("plot curves", data, as_json=as_json, render=lambda console: None)
    for path in disclosed:
        output.note(f"--disclose: {chosen} is shown, and the aggregator of {path} hides clients")
    for path in written:
        output.note(f"wrote {path}")


def _hides_clients(path: Path, metric: str, *, disclose: bool) -> bool:
    """True if a run's aggregator hides clients. Raises IncompatibleError then, unless `disclose`."""
    from flctl.cli.hidden import refuse_hidden
    from flctl.cli.session import current_registry
    from flctl.config.load import load
    from flctl.run.directory import RunDirectory

    registry = current_registry()
    config = load(registry, file=RunDirectory(path).config_file).config
    aggregator = registry.get("aggregator", config.aggregator.name)
    return refuse_hidden(path, aggregator, f"{metric} is a number over single clients", disclose=disclose)


def _refuse_early(x: str, picture: Path) -> None:
    """Raises ConfigError for an unknown axis or picture format, and for files that already exist."""
    from flctl import atomic
    from flctl.errors import ConfigError, suggest
    from flctl.report.curves import AXES
    from flctl.report.figure import format_of

    if x not in AXES:
        raise ConfigError(f"--x {x} is not an axis", hint=suggest(x, AXES) or f"Choose one of {', '.join(AXES)}.")
    format_of(picture)
    for path in (picture, picture.with_suffix(".csv")):
        atomic.refuse_existing(path)

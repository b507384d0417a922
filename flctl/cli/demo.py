"""`flctl demo`: partitions, trains and evaluates on data of scikit-learn, in a few seconds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.errors import command_line
from flctl.results import reserved_stdout

__all__ = ["register"]

COMMANDS = (
    "flctl partition digits --scheme dirichlet --alpha 0.3 --clients 20 --test-fraction 0.2 --seed 7 --out {parts}",
    "flctl train {parts} --model mlp --strategy fedavg --rounds 20 --clients-per-round 10 --local-epochs 2 "
    "--batch-size 32 --lr 0.1 --seed 7 --out {run}",
    "flctl eval {run} --per-client",
)


def register(app: typer.Typer) -> None:
    """Adds `demo` to the application."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The directory to create. Default: demo, or the first of demo-2, demo-3 ... that is free."
        ),
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="A hub and three sites on this machine, with enrolment and approval.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Partition, train and evaluate handwritten digits, showing each command as it runs.

    With --network: a federation of real sites, from the keys to a model with the bits of its simulation.
    """

    folder = out or _free_folder()
    if network:
        _network(folder, as_json=as_json)
        return
    parts, trained = folder / "parts" / "digits", folder / "runs" / "digits"
    commands = [template.format(parts=command_line(parts), run=command_line(trained)) for template in COMMANDS]
    with reserved_stdout(sys.stderr) if as_json else nullcontext():
        _run(commands)
    data = {"folder": folder.as_posix(), "partition": parts.as_posix(), "run": trained.as_posix(), "commands": commands}
    end = f"\nEverything is in {folder}. The same three commands work on your own files."
    output.emit("demo", data, as_json=as_json, render=lambda console: console.print(end, markup=False))


def _network(folder: Path, *, as_json: bool) -> None:
    from flctl.cli.demo_network import NetworkDemo
    from flctl.cli.federation.serve import require_aiohttp

    require_aiohttp()
    with reserved_stdout(sys.stderr) if as_json else nullcontext():
        data = NetworkDemo(folder).run()
    end = f"\nEverything is in {folder}: each member's home, the logs, the run and its twin ({data['seconds']} s)."
    output.emit("demo", data, as_json=as_json, render=lambda console: console.print(end, markup=False))


def _run(commands: Sequence[str]) -> None:
    """Runs the commands one after the other; ends with the first exit code that is not 0."""
    from flctl.cli import run

    for step, command in enumerate(commands, 1):
        output.stdout().print(f"\n[bold]{step}/{len(commands)} $ {command}[/]\n", soft_wrap=True)
        code = run(shlex.split(command)[1:])
        if code:
            raise typer.Exit(code)


def _free_folder() -> Path:
    suffix = 1
    while (folder := Path("demo" if suffix == 1 else f"demo-{suffix}")).exists():
        suffix += 1
    return folder

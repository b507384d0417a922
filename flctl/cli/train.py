"""`flctl train`: federated training of a model on a partition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.complete import complete_models, complete_partitions, complete_runs, complete_strategies
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.training import Result

__all__ = ["register"]

SETUP, LOCAL, COHORT, STOP, WHERE = "What", "Local work", "Cohort", "Stopping", "Where it runs"

HELP = """
Train a global model by federated learning on a partition.

Examples:

    flctl train parts/digits --model mlp --rounds 30 --clients-per-round 10 --out runs/digits

    flctl train --config sample_configs/mnist.yaml -o local.lr=0.05

    flctl train --resume runs/digits
"""


def register(app: typer.Typer) -> None:
    """Adds `train` to the application."""
    app.command("train", help=HELP)(train)


def _option(*names: str, help: str, panel: str, **extra: Any) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **extra)


def train(
    data: Annotated[
        Path | None, typer.Argument(help="The partition directory.", autocompletion=complete_partitions)
    ] = None,
    config: Annotated[
        Path | None, _option("--config", help="A YAML file; flags and -o win over it.", panel=SETUP)
    ] = None,
    override: Annotated[
        list[str] | None, _option("-o", "--override", metavar="KEY=VALUE", help="Any config key.", panel=SETUP)
    ] = None,
    out: Annotated[Path | None, _option("--out", help="The run directory to make.", panel=SETUP)] = None,
    resume: Annotated[
        Path | None,
        _option("--resume", metavar="RUN", help="Go on with a run.", panel=SETUP, autocompletion=complete_runs),
    ] = None,
    model: Annotated[
        str | None,
        _option(
            "--model",
            help="A model's name, module:function or file.py:function.",
            panel=SETUP,
            autocompletion=complete_models,
        ),
    ] = None,
    strategy: Annotated[
        str | None, _option("--strategy", help="The algorithm.", panel=SETUP, autocompletion=complete_strategies)
    ] = None,
    aggregator: Annotated[
        str | None, _option("--aggregator", help="How updates become their sum.", panel=SETUP)
    ] = None,
    transform: Annotated[
        list[str] | None, _option("--transform", help="A layer around the sum; may be repeated.", panel=SETUP)
    ] = None,
    seed: Annotated[int | None, _option("--seed", help="Every random number follows from it.", panel=SETUP)] = None,
    local_epochs: Annotated[
        int | None, _option("--local-epochs", help="Passes over a client's rows.", panel=LOCAL)
    ] = None,
    local_steps: Annotated[
        int | None, _option("--local-steps", help="Minibatch steps, in place of epochs.", panel=LOCAL)
    ] = None,
    batch_size: Annotated[int | None, _option("--batch-size", help="Rows per step; 0: all.", panel=LOCAL)] = None,
    optimizer: Annotated[str | None, _option("--optimizer", help="sgd, adam or adamw.", panel=LOCAL)] = None,
    lr: Annotated[float | None, _option("--lr", help="The clients' learning rate.", panel=LOCAL)] = None,
    clients_per_round: Annotated[
        int | None, _option("--clients-per-round", help="How many clients a round asks.", panel=COHORT)
    ] = None,
    sampling_rate: Annotated[
        float | None, _option("--sampling-rate", help="Poisson: each client's probability.", panel=COHORT)
    ] = None,
    sampling: Annotated[
        str | None, _option("--sampling", help="fixed, poisson, all, cyclic or trace.", panel=COHORT)
    ] = None,
    rounds: Annotated[int | None, _option("--rounds", help="Rounds to train.", panel=STOP)] = None,
    target_metric: Annotated[
        str | None,
        _option("--target-metric", metavar="[NAME=]VALUE", help="Stop when reached: accuracy=0.97.", panel=STOP),
    ] = None,
    engine: Annotated[str | None, _option("--engine", help="inprocess or pool.", panel=WHERE)] = None,
    workers: Annotated[
        int | None, _option("--workers", help="Worker processes; same numbers for any.", panel=WHERE)
    ] = None,
    max_failures: Annotated[
        int | None, _option("--max-failures", help="Clients that may fail in a round.", panel=WHERE)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """See HELP."""
    from flctl.cli import training
    from flctl.config import Flag

    named = {
        "--model": ("model.name", model),
        "--strategy": ("strategy.name", strategy),
        "--aggregator": ("aggregator.name", aggregator),
        "--seed": ("seed", seed),
        "--local-epochs": ("local.epochs", local_epochs),
        "--local-steps": ("local.steps", local_steps),
        "--batch-size": ("local.batch_size", batch_size),
        "--optimizer": ("local.optimizer", optimizer),
        "--lr": ("local.lr", lr),
        "--clients-per-round": ("cohort.clients", clients_per_round),
        "--rounds": ("rounds", rounds),
        "--engine": ("engine.name", engine),
        "--workers": ("engine.workers", workers),
        "--max-failures": ("engine.max_failures", max_failures),
    }
    flags = {key: Flag(name, value) for name, (key, value) in named.items() if value is not None}
    flags |= training.sampling_flags(sampling, sampling_rate) | training.target_flags(target_metric)
    flags |= {f"transforms.{name}": Flag("--transform", {}) for name in transform or ()}
    request = training.TrainRequest(data, config, tuple(override or ()), flags, out, resume)
    outcome = training.run(request, as_json)
    output.emit("train", outcome.data(), as_json, lambda console: _render(console, outcome.result))
    raise typer.Exit(outcome.exit_code)


def _render(console: Console, result: Result) -> None:
    summary, path = result.summary, result.directory.path
    final = "  ".join(f"{name} {value:.4f}" for name, value in summary["final"].items() if value is not None)
    reached = {"target": "target reached", "patience": "no more improvement", "time": "out of time"}
    console.print(f"{reached.get(result.status, result.status)} after round {result.rounds}: {final}", markup=False)
    best = summary["best"]
    if best["round"] is not None:
        console.print(f"best {summary['metric']} {best['value']:.4f} in round {best['round']}", markup=False)
    if result.status == "interrupted":
        console.print(f"go on with: flctl train --resume {path}", markup=False)
    else:
        console.print(f"next: flctl eval {path} --per-client", markup=False)

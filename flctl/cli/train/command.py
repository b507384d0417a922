"""`flctl train`: federated training of a model on a partition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output, profiles
from flctl.cli.complete import complete_models, complete_partitions, complete_runs, complete_strategies
from flctl.cli.flags import option, with_parameters
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.cli.train.job import Outcome, TrainRequest
    from flctl.timing import PhaseTimer

__all__ = ["register"]

SETUP, LOCAL, COHORT, STOP, WHERE = "What", "Local work", "Cohort", "Stopping", "Where it runs"
TELL = "Output"

HELP = """
Train a global model by federated learning on a partition.

Examples:

    flctl train parts/digits --model mlp --rounds 30 --clients-per-round 10 --out runs/digits

    flctl train --config sample_configs/mnist.yaml -o local.lr=0.05

    flctl train --resume runs/digits

    flctl train parts/digits --model mlp --explain
"""


@dataclass(frozen=True, slots=True)
class KeyFlag:
    """A flag that sets one key of the configuration: `--local-epochs` is `local.epochs`."""

    spelling: str
    key: str
    kind: type
    panel: str
    help: str
    complete: Callable[[str], Iterable[str]] | None = None

    @property
    def name(self) -> str:
        """The name of its parameter."""
        return self.spelling.removeprefix("--").replace("-", "_")

    @property
    def parameter(self) -> inspect.Parameter:
        """The flag as a parameter of the command; None where it is not given."""
        declared = option(self.spelling, help=self.help, panel=self.panel, autocompletion=self.complete)
        kind: Any = self.kind | None
        annotation: Any = Annotated[kind, declared]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


CUSTOM = "A model's name, module:function or file.py:function."
FLAGS = (
    KeyFlag("--model", "model.name", str, SETUP, CUSTOM, complete_models),
    KeyFlag("--strategy", "strategy.name", str, SETUP, "The algorithm: a name or file.py:Class.", complete_strategies),
    KeyFlag("--aggregator", "aggregator.name", str, SETUP, "How updates become their sum: a name or file.py:Class."),
    KeyFlag("--seed", "seed", int, SETUP, "Every random number follows from it."),
    KeyFlag("--local-epochs", "local.epochs", int, LOCAL, "Passes over a client's rows."),
    KeyFlag("--local-steps", "local.steps", int, LOCAL, "Minibatch steps, in place of epochs."),
    KeyFlag("--batch-size", "local.batch_size", int, LOCAL, "Rows per step; 0: all."),
    KeyFlag("--optimizer", "local.optimizer", str, LOCAL, "sgd, adam or adamw."),
    KeyFlag("--lr", "local.lr", float, LOCAL, "The clients' learning rate."),
    KeyFlag("--clients-per-round", "cohort.clients", int, COHORT, "How many clients a round asks."),
    KeyFlag("--rounds", "rounds", int, STOP, "Rounds to train."),
    KeyFlag("--engine", "engine.name", str, WHERE, "inprocess, pool or file.py:Class."),
    KeyFlag("--workers", "engine.workers", int, WHERE, "Worker processes; same numbers for any."),
    KeyFlag("--max-failures", "engine.max_failures", int, WHERE, "Clients that may fail in a round."),
)


SWITCHES = {
    "explain": "Say how clients would be trained, and what it takes; train nothing.",
    "yes": "Start without asking, whatever warnings there are.",
    "profile": "Keep seconds by phase in profile.json and profile.png.",
}


def register(app: typer.Typer) -> None:
    """Adds `train` to the application."""
    parameters = (*(flag.parameter for flag in FLAGS), *(_switch(*item) for item in SWITCHES.items()))
    app.command("train", help=HELP)(with_parameters(train, parameters))


def _switch(name: str, text: str) -> inspect.Parameter:
    annotation: Any = Annotated[bool, option(f"--{name}", help=text, panel=TELL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def train(
    data: Annotated[
        Path | None, typer.Argument(help="The partition directory.", autocompletion=complete_partitions)
    ] = None,
    config: Annotated[
        Path | None, option("--config", help="A YAML file; flags and -o win over it.", panel=SETUP)
    ] = None,
    override: Annotated[
        list[str] | None, option("-o", "--override", metavar="KEY=VALUE", help="Any config key.", panel=SETUP)
    ] = None,
    out: Annotated[Path | None, option("--out", help="The run directory to make.", panel=SETUP)] = None,
    resume: Annotated[
        Path | None,
        option("--resume", metavar="RUN", help="Go on with a run.", panel=SETUP, autocompletion=complete_runs),
    ] = None,
    transform: Annotated[
        list[str] | None,
        option("--transform", help="A layer around the sum: a name or file.py:Class; may be repeated.", panel=SETUP),
    ] = None,
    sampling_rate: Annotated[
        float | None, option("--sampling-rate", help="Poisson: each client's probability.", panel=COHORT)
    ] = None,
    sampling: Annotated[
        str | None, option("--sampling", help="fixed, poisson, all, cyclic or trace.", panel=COHORT)
    ] = None,
    target_metric: Annotated[
        str | None,
        option("--target-metric", metavar="[NAME=]VALUE", help="Stop when reached: accuracy=0.97.", panel=STOP),
    ] = None,
    as_json: JsonFlag = False,
    **keys: Any,
) -> None:
    """See HELP."""
    from flctl.config.config import Flag
    from flctl.machine import process_age
    from flctl.timing import PhaseTimer

    startup = PhaseTimer({"python": process_age() or 0.0})
    with startup.phase("imports"):
        from flctl.cli.train import job
    flags = {flag.key: Flag(flag.spelling, keys[flag.name]) for flag in FLAGS if keys[flag.name] is not None}
    flags |= job.sampling_flags(sampling, sampling_rate) | job.target_flags(target_metric)
    flags |= {f"transforms.{name}": Flag("--transform", {}) for name in transform or ()}
    request = job.TrainRequest(data, config, tuple(override or ()), flags, out, resume, keys["yes"])
    if keys["explain"]:
        _explain(request, keys["profile"], as_json)
    else:
        _train(request, startup if keys["profile"] else None, as_json)


def _train(request: TrainRequest, startup: PhaseTimer | None, as_json: bool) -> None:
    """Trains, and profiles it where `startup` has the seconds before."""
    from flctl.cli.train import job
    from flctl.performance.profile import Profiler

    outcome = job.run(request, as_json, None if startup is None else Profiler(startup.seconds))
    output.emit("train", outcome.data(), as_json, lambda console: _render(console, outcome))
    raise typer.Exit(outcome.exit_code)


def _explain(request: TrainRequest, profile: bool, as_json: bool) -> None:
    from flctl.cli.train import forecast, job
    from flctl.errors import ConfigError

    if profile:
        raise ConfigError("--profile has no effect with --explain: nothing is trained", hint="Leave one of them out.")
    found = job.explain(request)
    output.emit("train", found.data(), as_json, lambda console: forecast.render(console, found))


def _render_told(console: Console, outcome: Outcome) -> None:
    """Why the next round was refused, and what transforms say of those before it."""
    if outcome.result.refused is not None:
        output.fail(outcome.result.refused, "train", False)
    for name, said in outcome.result.summary.get("transforms", {}).items():
        console.print(f"{name}: {said.get('statement', said)}", markup=False)


def _render(console: Console, outcome: Outcome) -> None:
    result = outcome.result
    summary, path = result.summary, result.directory.path
    final = "  ".join(f"{name} {value:.4f}" for name, value in summary["final"].items() if value is not None)
    reached = {
        "target": "target reached",
        "patience": "no more improvement",
        "time": "out of time",
        "budget": "privacy budget spent",
    }
    _render_told(console, outcome)
    ended = f"{reached.get(result.status, result.status)} after round {result.rounds}"
    console.print(f"{ended}: {final}" if final else ended, markup=False)
    best = summary["best"]
    if best["round"] is not None:
        console.print(f"best {summary['metric']} {best['value']:.4f} in round {best['round']}", markup=False)
    if outcome.profile is not None:
        profiles.render(console, outcome.profile)
    if result.status == "interrupted":
        console.print(f"go on with: flctl train --resume {path}", markup=False)
    elif result.rounds:
        console.print(f"next: flctl eval {path} --per-client", markup=False)

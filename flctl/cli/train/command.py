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
from flctl.errors import command_line

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.cli.train.job import Outcome, TrainRequest
    from flctl.timing import PhaseTimer

__all__ = ["register"]

SETUP, LOCAL, COHORT, STOP, WHERE = "Setup", "Local training", "Cohort", "Stopping", "Execution"
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
    """A flag that sets one key of the configuration: `--local-epochs` is `local.epochs`.

    `default` repeats the key's default for the help, which must not import the configuration (a test compares them).
    """

    spelling: str
    key: str
    kind: type
    panel: str
    help: str
    default: object
    note: str = ""
    complete: Callable[[str], Iterable[str]] | None = None

    @property
    def name(self) -> str:
        """The name of its parameter."""
        return self.spelling.removeprefix("--").replace("-", "_")

    @property
    def text(self) -> str:
        """The help with the default: "Rows per step; 0: all. Default 32."."""
        default = "not set" if self.default is None else self.default
        return f"{self.help} Default{':' if self.default is None else ''} {default}{self.note}."

    @property
    def parameter(self) -> inspect.Parameter:
        """The flag as a parameter of the command; None if it is not given."""
        declared = option(self.spelling, help=self.text, panel=self.panel, autocompletion=self.complete)
        kind: Any = self.kind | None
        annotation: Any = Annotated[kind, declared]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


MODEL, STRATEGY = "A name, module:function or file.py:function.", "The algorithm: a name or file.py:Class."
FLAGS = (
    KeyFlag("--model", "model.name", str, SETUP, MODEL, "auto", ", by task", complete_models),
    KeyFlag("--strategy", "strategy.name", str, SETUP, STRATEGY, "fedavg", "", complete_strategies),
    KeyFlag(
        "--aggregator",
        "aggregator.name",
        str,
        SETUP,
        "How client updates are combined: a name or file.py:Class.",
        "plain",
    ),
    KeyFlag("--seed", "seed", int, SETUP, "Random seed; the random numbers of privacy mechanisms do not use it.", 0),
    KeyFlag("--local-epochs", "local.epochs", int, LOCAL, "Passes over a client's rows.", 1),
    KeyFlag("--local-steps", "local.steps", int, LOCAL, "Minibatch steps, in place of epochs.", None),
    KeyFlag("--batch-size", "local.batch_size", int, LOCAL, "Rows per step; 0: all.", 32),
    KeyFlag("--optimizer", "local.optimizer", str, LOCAL, "sgd, adam or adamw.", "sgd"),
    KeyFlag("--lr", "local.lr", float, LOCAL, "The clients' learning rate.", 0.1, "; 0.001 for adam, adamw"),
    KeyFlag(
        "--clients-per-round", "cohort.clients", int, COHORT, "Clients sampled per round.", 10, ", or all of fewer"
    ),
    KeyFlag("--rounds", "rounds", int, STOP, "Rounds to train.", 10),
    KeyFlag(
        "--engine", "engine.name", str, WHERE, "inprocess, pool, network or file.py:Class.", "auto", ", by --workers"
    ),
    KeyFlag("--purpose", "engine.purpose", str, WHERE, "Purpose that sites read and approve.", None),
    KeyFlag("--workers", "engine.workers", int, WHERE, "Worker processes; results do not depend on them.", 1),
    KeyFlag("--max-failures", "engine.max_failures", int, WHERE, "Clients that may fail in a round.", 0),
)


SWITCHES = {
    "explain": "Show the executor that would be chosen, and the cost; train nothing.",
    "yes": "Start despite warnings, without asking.",
    "profile": "Record seconds by phase in profile.json and profile.png.",
}


def register(app: typer.Typer) -> None:
    """Adds `train` to the application."""
    parameters = (*(flag.parameter for flag in FLAGS), *(_switch(*item) for item in SWITCHES.items()))
    app.command("train", help=HELP)(with_parameters(train, parameters))


def _switch(name: str, text: str) -> inspect.Parameter:
    annotation: Any = Annotated[bool, option(f"--{name}", help=text, panel=TELL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


ConfigFile = Annotated[Path | None, option("--config", help="A YAML file; flags and -o override it.", panel=SETUP)]
Overrides = Annotated[
    list[str] | None,
    option("-o", "--override", metavar="KEY=VALUE", help="Any config key; may be repeated.", panel=SETUP),
]
OutDirectory = Annotated[
    Path | None, option("--out", help="The run directory to create. Default runs/PARTITION-STRATEGY.", panel=SETUP)
]
ResumedRun = Annotated[
    Path | None,
    option("--resume", metavar="RUN", help="Continue a run.", panel=SETUP, autocompletion=complete_runs),
]
Transforms = Annotated[
    list[str] | None,
    option("--transform", help="Processing applied to updates: a name or file.py:Class; may be repeated.", panel=SETUP),
]
SamplingRate = Annotated[
    float | None,
    option(
        "--sampling-rate",
        help="Poisson sampling with this probability for each client. Default: not set.",
        panel=COHORT,
    ),
]
Sampling = Annotated[
    str | None, option("--sampling", help="fixed, poisson, all, cyclic or trace. Default fixed.", panel=COHORT)
]
TargetMetric = Annotated[
    str | None,
    option(
        "--target-metric",
        metavar="[NAME=]VALUE",
        help="Stop once reached: accuracy=0.97. Default: not set.",
        panel=STOP,
    ),
]


def train(
    data: Annotated[
        Path | None, typer.Argument(help="The partition directory.", autocompletion=complete_partitions)
    ] = None,
    config: ConfigFile = None,
    override: Overrides = None,
    out: OutDirectory = None,
    resume: ResumedRun = None,
    transform: Transforms = None,
    sampling_rate: SamplingRate = None,
    sampling: Sampling = None,
    target_metric: TargetMetric = None,
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
        _explain(request, profile=keys["profile"], as_json=as_json)
    else:
        _train(request, startup if keys["profile"] else None, as_json=as_json)


def _train(request: TrainRequest, startup: PhaseTimer | None, *, as_json: bool) -> None:
    """Trains, and profiles it where `startup` has the seconds before."""
    from flctl.cli.train import job
    from flctl.performance.profile import Profiler

    outcome = job.run(request, as_json=as_json, profiler=None if startup is None else Profiler(startup.seconds))
    output.emit("train", outcome.data(), as_json=as_json, render=lambda console: _render(console, outcome))
    raise typer.Exit(outcome.exit_code)


def _explain(request: TrainRequest, *, profile: bool, as_json: bool) -> None:
    from flctl.cli.train import forecast, job
    from flctl.errors import ConfigError

    if profile:
        raise ConfigError("--profile has no effect with --explain: nothing is trained", hint="Leave one of them out.")
    found = job.explain(request)
    output.emit("train", found.data(), as_json=as_json, render=lambda console: forecast.render(console, found))


def _render_told(console: Console, outcome: Outcome) -> None:
    """Prints the reason for refusing the next round, and the transforms' statements on the rounds before it."""
    if outcome.result.refused is not None:
        output.fail(outcome.result.refused, "train", as_json=False)
    for name, entries in outcome.result.summary.get("transforms", {}).items():
        console.print(f"{name}: {entries.get('statement', entries)}", markup=False)


def _render(console: Console, outcome: Outcome) -> None:
    result = outcome.result
    summary, path = result.summary, result.directory.path
    final = "  ".join(f"{name} {value:.4f}" for name, value in summary["final"].items() if value is not None)
    reached = {
        "target": "target reached",
        "patience": "no more improvement",
        "time": "stop.minutes reached",
        "budget": "privacy budget spent",
    }
    _render_told(console, outcome)
    ended = f"{reached.get(result.status, result.status)} after round {result.rounds}"
    split = summary["split"]
    ended += ", on validation rows" if split == "validation" and final else ""
    console.print(f"{ended}: {final}" if final else ended, markup=False)
    best = summary["best"]
    if best["round"] is not None:
        picked = "test rows (see --validation-fraction)" if split == "test" else "validation rows"
        found = f"best {summary['metric']} {best['value']:.4f} in round {best['round']}"
        console.print(f"{found}, picked by {picked}", markup=False)
    if outcome.profile is not None:
        profiles.render(console, outcome.profile)
    if result.status == "interrupted":
        console.print(f"continue: {command_line('flctl', 'train', '--resume', path)}", markup=False)
    elif result.rounds and result.summary["final"]:
        words = ("runs", "show", path) if (path / "federation").is_dir() else ("eval", path, "--per-client")
        console.print(f"next: {command_line('flctl', *words)}", markup=False)

"""`flctl dp`: what a plan costs, what a population's ledger holds, whether its chain is whole, and an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON envelope on stdout.")]
Where = Annotated[Path, typer.Argument(help="A ledger, or the partition that it lies in.")]
NoiseMultipliers = Annotated[
    list[float] | None, typer.Option("--noise-multiplier", min=0, help="The noise over the clipping norm.")
]
TargetEpsilons = Annotated[
    list[float] | None, typer.Option("--target-epsilon", min=0, help="Find the noise for this epsilon.")
]
Delta = Annotated[float, typer.Option("--delta", help="Below one over the number of clients.")]

PLAN = """
What rounds cost in epsilon, or how much noise an epsilon takes. Options with several values make a table.

Examples:

    flctl dp plan --population 60000 --cohort 256 --rounds 14062 --noise-multiplier 1.1 --delta 1e-5

    flctl dp plan --population 3383 --cohort 60 --cohort 120 --rounds 100 --target-epsilon 2 --target-epsilon 8

    flctl dp plan --population 500 --cohort 100 --rounds 50 --target-epsilon 4 --survivors 80 --parameters 200000
"""

PLAN_EXAMPLES = """
What training by the transform dp-examples costs the rows of one client that takes part in all rounds, or how much noise
an epsilon takes. Options with several values make a table.

Examples:

    flctl dp plan-examples --rows 2000 --batch-size 64 --rounds 50 --noise-multiplier 1.0

    flctl dp plan-examples --rows 2000 --batch-size 32 --batch-size 128 --rounds 50 --target-epsilon 4
"""


def register(app: typer.Typer) -> None:
    """Adds `dp` to the application."""
    dp = typer.Typer(no_args_is_help=True, help="Differential privacy: plan a run, see and check a ledger.")
    dp.command("plan", help=PLAN)(plan)
    dp.command("plan-examples", help=PLAN_EXAMPLES)(plan_examples)
    dp.command("status")(status)
    dp.command("verify")(verify)
    dp.command("audit")(audit)
    app.add_typer(dp, name="dp")


def plan(
    population: Annotated[int, typer.Option("--population", min=1, help="Clients that there are.")],
    cohort: Annotated[list[float], typer.Option("--cohort", min=0, help="Clients a round, on average.")],
    rounds: Annotated[list[int], typer.Option("--rounds", min=1, help="Rounds.")],
    noise_multiplier: NoiseMultipliers = None,
    target_epsilon: TargetEpsilons = None,
    delta: Delta = 1e-5,
    sampling: Annotated[
        str, typer.Option("--sampling", help="poisson, fixed, all, unsampled, or cyclic (DP-FTRL).")
    ] = "poisson",
    max_cohort: Annotated[
        int | None, typer.Option("--max-cohort", min=1, help="Cut larger cohorts to so many (poisson).")
    ] = None,
    bands: Annotated[
        int | None, typer.Option("--bands", min=1, max=4096, help="Rounds over which noise is correlated (cyclic).")
    ] = None,
    relation: Annotated[
        str | None, typer.Option("--relation", help="add-remove, replace-one or zero-out; else the sampling's.")
    ] = None,
    accountant: Annotated[str, typer.Option("--accountant", help="pld or rdp.")] = "pld",
    survivors: Annotated[
        int | None, typer.Option("--survivors", min=1, help="Clients add the noise, and so many's is enough.")
    ] = None,
    parameters: Annotated[int, typer.Option("--parameters", min=0, help="Values of the model (with survivors).")] = 0,
    bits: Annotated[int, typer.Option("--bits", min=8, max=32, help="Bits of sums (with survivors).")] = 20,
    mechanism: Annotated[
        str, typer.Option("--mechanism", help="discrete-gaussian or skellam (with survivors).")
    ] = "discrete-gaussian",
    as_json: JsonFlag = False,
) -> None:
    """See PLAN."""
    from flctl_dp.commands import plans
    from flctl_dp.commands.distributed_plans import DistributedQuestion

    question = plans.Question(population, delta, sampling, relation, accountant, max_cohort, bands)
    if survivors is not None:
        known: dict[str, Any] = {name: getattr(question, name) for name in plans.Question.__slots__}
        known |= {"survivors": survivors, "parameters": parameters, "bits": bits, "mechanism": mechanism}
        question = DistributedQuestion(**known)
    found = plans.grid(question, cohort, rounds, noise_multiplier or [], target_epsilon or [])
    data = {"delta": delta, "population": population, "sampling": sampling, "plans": [one.data() for one in found]}
    _emit("dp plan", data if len(found) > 1 else found[0].data(), as_json, lambda c: plans.render(c, found))


def plan_examples(
    rows: Annotated[int, typer.Option("--rows", min=1, help="Training rows of the client.")],
    rounds: Annotated[list[int], typer.Option("--rounds", min=1, help="Rounds.")],
    batch_size: Annotated[list[int], typer.Option("--batch-size", min=0, help="Rows a step, on average; 0: all.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs a round.")] = 1,
    noise_multiplier: NoiseMultipliers = None,
    target_epsilon: TargetEpsilons = None,
    delta: Annotated[float, typer.Option("--delta", help="Below one over the number of rows.")] = 1e-5,
    relation: Annotated[str, typer.Option("--relation", help="add-remove, replace-one or zero-out.")] = "add-remove",
    accountant: Annotated[str, typer.Option("--accountant", help="pld or rdp.")] = "pld",
    as_json: JsonFlag = False,
) -> None:
    """See PLAN_EXAMPLES."""
    from flctl_dp.commands import example_plans

    question = example_plans.ExampleQuestion(rows, epochs, delta, relation, accountant)
    found = example_plans.grid(question, batch_size, rounds, noise_multiplier or [], target_epsilon or [])
    data = {"delta": delta, "rows": rows, "epochs": epochs, "plans": [one.data() for one in found]}
    shown = data if len(found) > 1 else found[0].data()
    _emit("dp plan-examples", shown, as_json, lambda console: example_plans.render(console, found))


def status(
    ledger: Where,
    delta: Delta = 1e-5,
    target_epsilon: Annotated[
        float | None, typer.Option("--target-epsilon", min=0, help="Also say what is left of this epsilon.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was released of a population, by which runs, and what that comes to; and of the rows of its clients."""
    from flctl_dp.commands import example_plans, plans
    from flctl_dp.ledgers.client_ledgers import ClientLedgers

    clients, file = ClientLedgers.at(ledger), plans.find_ledger(ledger)
    population = None if clients and not plans.is_kept(file) else plans.spent(file, delta, target_epsilon)
    rows = example_plans.of_clients(clients, delta) if clients else None
    data = {**(population or {}), **({"clients": rows} if rows else {})}

    def render(console: Console) -> None:
        if population:
            plans.render_spent(console, population)
        if rows:
            example_plans.render_clients(console, rows)

    _emit("dp status", data, as_json, render)


def verify(ledger: Where, as_json: JsonFlag = False) -> None:
    """Check a ledger's chain of digests, and those of clients; exit code 6 where a line was changed, moved or lost."""
    from flctl_dp.commands import example_plans, plans
    from flctl_dp.ledgers.client_ledgers import ClientLedgers

    clients, file = ClientLedgers.at(ledger), plans.find_ledger(ledger)
    data: dict[str, Any] = {}
    said: list[str] = []
    if not clients or plans.is_kept(file):
        found = plans.read_ledger(file)
        data = {"ledger": file.path.as_posix(), "charges": len(found.charges), "head": found.head}
        said += [f"{file.path}: {len(found.charges)} charges in an unbroken chain, head {found.head[:16]}"]
    if clients:
        data["clients"] = example_plans.verified(clients)
        said += ["{ledgers}: {charges} charges in the unbroken chains of {clients} clients".format(**data["clients"])]
    _emit("dp verify", data, as_json, lambda console: console.print("\n".join(said), markup=False))


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN|CONFIG", help="A run's directory, or a YAML file.")],
    canaries: Annotated[int, typer.Option("--canaries", min=20, max=1_000_000, help="Clients made up for it.")] = 1000,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds; else those of the config.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Attack the mechanism of a run with canaries, and print a lower bound of epsilon beside the claim.

    Exit code 1 where the claim is refuted.
    """
    from flctl_dp.audit import run_audit

    found = run_audit.audit_of(run, canaries, rounds)
    _emit(
        "dp audit", run_audit.data(found), as_json, lambda console: console.print(run_audit.told(found), markup=False)
    )
    raise typer.Exit(1 if found.broken else 0)


def _emit(command: str, data: Mapping[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """A result as flctl's commands print theirs: the envelope with `--json`, else what `render` writes."""
    from rich.console import Console

    if as_json:
        from flctl_dp.commands.plans import envelope

        typer.echo(envelope(command, data))
    else:
        render(Console(soft_wrap=True, highlight=False))

"""`flctl dp`: its subcommands plan, plan-examples, status, verify and audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from flctl.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON envelope on stdout.")]
Where = Annotated[Path, typer.Argument(metavar="LEDGER", help="A ledger, its partition, or a run directory.")]
NoiseMultipliers = Annotated[
    list[float] | None,
    typer.Option(
        "--noise-multiplier", metavar="Z", min=0, help="Standard deviation of the noise, divided by the clipping norm."
    ),
]
TargetEpsilons = Annotated[
    list[float] | None,
    typer.Option("--target-epsilon", metavar="EPS", min=0, help="Find the smallest noise multiplier for this epsilon."),
]

PLAN = """
Compute the epsilon of rounds, or the noise for an epsilon, before training.

Options with several values make a table.

Examples:

    flctl dp plan --clients 60000 --clients-per-round 256 --rounds 14062 --noise-multiplier 1.1 --delta 1e-5

    flctl dp plan --clients 3383 --clients-per-round 60 --clients-per-round 120 --rounds 100 --target-epsilon 2

    flctl dp plan --clients 500 --clients-per-round 100 --rounds 50 --target-epsilon 4 --survivors 80 --parameters 50000
"""

PLAN_EXAMPLES = """
Compute the epsilon of one client's rows under the transform dp-examples, or the noise for an epsilon.

The client takes part in all rounds. Options with several values make a table.

Examples:

    flctl dp plan-examples --rows 2000 --batch-size 64 --rounds 50 --noise-multiplier 1.0

    flctl dp plan-examples --rows 2000 --batch-size 32 --batch-size 128 --rounds 50 --target-epsilon 4
"""

STATUS = """
Show the releases and the epsilon of a population, over all runs and by run.

For dp-examples, the same of the rows of its clients.

Examples:

    flctl dp status runs/digits

    flctl dp status parts/digits --target-epsilon 8
"""


def register(app: typer.Typer) -> None:
    """Adds `dp` to the application."""
    dp = typer.Typer(no_args_is_help=True, help="Differential privacy: plan a run, show and verify a ledger, audit.")
    dp.command("plan", help=PLAN)(plan)
    dp.command("plan-examples", help=PLAN_EXAMPLES)(plan_examples)
    dp.command("status", help=STATUS)(status)
    dp.command("verify")(verify)
    dp.command("audit")(audit)
    app.add_typer(dp, name="dp")


def plan(
    clients: Annotated[
        int, typer.Option("--clients", "--population", metavar="N", min=1, help="Clients with training rows.")
    ],
    clients_per_round: Annotated[
        list[float],
        typer.Option(
            "--clients-per-round", "--cohort", metavar="N", min=0, help="Clients per round, on average (also --cohort)."
        ),
    ],
    rounds: Annotated[list[int], typer.Option("--rounds", metavar="N", min=1, help="Rounds.")],
    noise_multiplier: NoiseMultipliers = None,
    target_epsilon: TargetEpsilons = None,
    delta: Annotated[float, typer.Option("--delta", metavar="D", help="Below 1 / clients.")] = 1e-5,
    sampling: Annotated[
        str, typer.Option("--sampling", metavar="NAME", help="poisson, fixed, all, unsampled, or cyclic (DP-FTRL).")
    ] = "poisson",
    max_cohort: Annotated[
        int | None,
        typer.Option("--max-cohort", metavar="N", min=1, help="Truncate larger cohorts (poisson). Default: no limit."),
    ] = None,
    bands: Annotated[
        int | None,
        typer.Option(
            "--bands",
            metavar="N",
            min=1,
            max=4096,
            help="Rounds over which noise is correlated (cyclic). Default: clients / clients per round, at most 32.",
        ),
    ] = None,
    relation: Annotated[
        str | None,
        typer.Option(
            "--relation", metavar="NAME", help="add-remove, replace-one or zero-out. Default: that of the sampling."
        ),
    ] = None,
    accountant: Annotated[str, typer.Option("--accountant", metavar="NAME", help="pld or rdp.")] = "pld",
    survivors: Annotated[
        int | None,
        typer.Option(
            "--survivors",
            metavar="N",
            min=1,
            help="Fewest clients in a sum: plans dp-distributed. Default: server noise.",
        ),
    ] = None,
    parameters: Annotated[
        int, typer.Option("--parameters", metavar="N", min=0, help="Parameters of the model (with --survivors).")
    ] = 0,
    bits: Annotated[
        int, typer.Option("--bits", metavar="N", min=8, max=32, help="Bits of sums (with --survivors).")
    ] = 20,
    mechanism: Annotated[
        str, typer.Option("--mechanism", metavar="NAME", help="discrete-gaussian or skellam (with --survivors).")
    ] = "discrete-gaussian",
    as_json: JsonFlag = False,
) -> None:
    """See PLAN."""
    from flctl_dp.commands import output, plans
    from flctl_dp.commands.distributed_plans import DistributedQuestion

    question = plans.Question(clients, delta, sampling, relation, accountant, max_cohort, bands)
    if survivors is not None:
        known: dict[str, Any] = {name: getattr(question, name) for name in plans.Question.__slots__}
        known |= {"survivors": survivors, "parameters": parameters, "bits": bits, "mechanism": mechanism}
        question = DistributedQuestion(**known)
    found = plans.grid(question, clients_per_round, rounds, noise_multiplier or [], target_epsilon or [])
    data = {"delta": delta, "population": clients, "sampling": sampling, "plans": [one.data() for one in found]}
    shown = data if len(found) > 1 else found[0].data()
    output.emit("dp plan", shown, as_json=as_json, render=lambda console: plans.render(console, found))


def plan_examples(
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="Training rows of the client.")],
    rounds: Annotated[list[int], typer.Option("--rounds", metavar="N", min=1, help="Rounds.")],
    batch_size: Annotated[
        list[int], typer.Option("--batch-size", metavar="N", min=0, help="Rows per step, on average; 0: all.")
    ],
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Epochs per round.")] = 1,
    noise_multiplier: NoiseMultipliers = None,
    target_epsilon: TargetEpsilons = None,
    delta: Annotated[float, typer.Option("--delta", metavar="D", help="Below 1 / rows.")] = 1e-5,
    relation: Annotated[
        str, typer.Option("--relation", metavar="NAME", help="add-remove, replace-one or zero-out.")
    ] = "add-remove",
    accountant: Annotated[str, typer.Option("--accountant", metavar="NAME", help="pld or rdp.")] = "pld",
    as_json: JsonFlag = False,
) -> None:
    """See PLAN_EXAMPLES."""
    from flctl_dp.commands import example_plans, output
    from flctl_dp.commands.plans import grid

    question = example_plans.ExampleQuestion(rows, epochs, delta, relation, accountant)
    found = grid(question, batch_size, rounds, noise_multiplier or [], target_epsilon or [])
    data = {"delta": delta, "rows": rows, "epochs": epochs, "plans": [one.data() for one in found]}
    shown = data if len(found) > 1 else found[0].data()
    output.emit("dp plan-examples", shown, as_json=as_json, render=lambda console: example_plans.render(console, found))


def status(
    ledger: Where,
    delta: Annotated[
        float | None,
        typer.Option("--delta", metavar="D", help="Delta of the epsilon. Default: that of the last charge."),
    ] = None,
    target_epsilon: Annotated[
        float | None,
        typer.Option(
            "--target-epsilon",
            metavar="EPS",
            min=0,
            help="Show how many rounds are left within this epsilon. Default: that of the last charge.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """See STATUS."""
    from flctl_dp.commands import client_status, ledger_status, output
    from flctl_dp.ledgers.client_ledgers import ClientLedgers

    path = ledger_status.located(ledger)
    clients, file = ClientLedgers.at(path), ledger_status.find_ledger(path)
    skipped = clients is not None and not ledger_status.is_kept(file)
    population = None if skipped else ledger_status.spent(file, delta, target_epsilon)
    rows = client_status.of_clients(clients, delta) if clients else None
    data = {**(population or {}), **({"clients": rows} if rows else {})}

    def render(console: Console) -> None:
        if population:
            ledger_status.render_spent(console, population)
        if rows:
            client_status.render_clients(console, rows)

    output.emit("dp status", data, as_json=as_json, render=render)


def verify(ledger: Where, as_json: JsonFlag = False) -> None:
    """Verify the hash chain of a ledger, and those of clients. Exit code 6 if a line was changed, moved or lost.

    The chain has no key: an edit is not detected if all digests were computed again.
    """
    from flctl_dp.commands import client_status, ledger_status, output
    from flctl_dp.ledgers.client_ledgers import ClientLedgers

    path = ledger_status.located(ledger)
    clients, file = ClientLedgers.at(path), ledger_status.find_ledger(path)
    data: dict[str, Any] = {}
    said: list[str] = []
    if not clients or ledger_status.is_kept(file):
        found = ledger_status.read_ledger(file)
        data = {"ledger": file.path.as_posix(), "charges": len(found.charges), "head": found.head}
        said += [f"{file.path}: {counted(len(found.charges), 'charge')} in an unbroken chain, head {found.head[:16]}"]
    if clients:
        data["clients"] = client_status.verified(clients)
        said += ["{ledgers}: {charges} charges in the unbroken chains of {clients} clients".format(**data["clients"])]
    said += ["the chains have no key: edits after which all digests were computed again are not detected"]
    output.emit("dp verify", data, as_json=as_json, render=lambda console: console.print("\n".join(said), markup=False))


def audit(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN|CONFIG", help="A run's directory, or a YAML file.")],
    canaries: Annotated[
        int | None,
        typer.Option(
            "--canaries",
            metavar="N",
            min=20,
            max=1_000_000,
            help="Number of canaries. Default: 1000; end to end over secagg, 800.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            min=1,
            help="Number of rounds. Default: that of the configuration; end to end, 1.",
        ),
    ] = None,
    end_to_end: Annotated[
        bool,
        typer.Option("--end-to-end", help="Train the whole configuration on synthetic rows; supports any transform."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Attack the mechanism of a run with canaries, and print a lower bound of epsilon and the claim.

    Covers clipping, noise and composition of dp, dp-adaptive and dp-ftrl.
    Exit code 1 if the claim is refuted.

    With --end-to-end, `flctl train` itself trains on canaries: executors,
    cohorts, aggregator and accounting, for all six transforms. For claims of
    epsilon 2 to 2.8 it finds 0.2 to 1 in sound transforms, and refutes those
    with a quarter of the noise, without clipping, or with unbounded weights
    (benchmarks/audit_power.py).
    """
    from flctl_dp.audit import run_audit
    from flctl_dp.audit.end_to_end import audit_end_to_end
    from flctl_dp.commands import output
    from flctl_dp.commands.in_process import in_process

    if end_to_end:
        found = audit_end_to_end(run, canaries, rounds, in_process(context.find_root().command))
    else:
        found = run_audit.audit_of(run, canaries or 1000, rounds)
    shown = run_audit.data(found)
    output.emit(
        "dp audit",
        shown,
        as_json=as_json,
        render=lambda console: console.print(run_audit.report_text(found), markup=False),
    )
    raise typer.Exit(1 if found.broken else 0)

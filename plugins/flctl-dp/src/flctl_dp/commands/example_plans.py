"""What rows of clients have spent, and what it would cost, as the command line shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from flctl import ConfigError

from flctl_dp.accounting.accountants import Accountant, guarantee
from flctl_dp.accounting.calibration import calibrate
from flctl_dp.accounting.releases import RELATIONS, Relation, Release
from flctl_dp.budget.example_budget import described
from flctl_dp.commands.plans import either, render_plans
from flctl_dp.ledgers.client_ledgers import ClientLedgers, Spent, spent
from flctl_dp.ledgers.ledger import Ledger

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ExamplePlan", "ExampleQuestion", "grid", "of_clients", "render", "render_clients", "verified"]


@dataclass(frozen=True, slots=True)
class ExampleQuestion:
    """What all plans of a grid have in common: one client with so many rows, which makes so many epochs a round."""

    rows: int
    epochs: int
    delta: float
    relation: str
    accountant: str

    def check(self) -> None:
        """Raises ConfigError for a word that is none, or a delta that would allow to publish a row."""
        for what, word, known in (
            ("--relation", self.relation, RELATIONS),
            ("--accountant", self.accountant, get_args(Accountant)),
        ):
            if word not in known:
                raise ConfigError(f"{what} is '{word}'", hint=f"Take {', '.join(known)}.")
        if self.delta * self.rows >= 1:
            raise ConfigError(
                f"--delta is {self.delta:g}, and there are {self.rows} rows: publishing one would be within it",
                hint=f"Take less than {1 / self.rows:.2g}.",
            )


@dataclass(frozen=True, slots=True)
class ExamplePlan:
    """What the rows of one client spend if it takes part in all rounds."""

    rows: int
    batch_size: int
    epochs: int
    rounds: int
    steps: int
    noise_multiplier: float
    epsilon: float
    relation: str
    accountant: str
    statement: str

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def grid(
    question: ExampleQuestion,
    batch_sizes: Sequence[int],
    rounds: Sequence[int],
    noises: Sequence[float],
    targets: Sequence[float],
) -> list[ExamplePlan]:
    """A plan for each combination. Raises ConfigError unless either noises or targets are given."""
    question.check()
    return [
        _plan(question, size, count, noise, target)
        for size in batch_sizes
        for count in rounds
        for noise, target in either(noises, targets)
    ]


def _plan(question: ExampleQuestion, size: int, rounds: int, noise: float, target: float | None) -> ExamplePlan:
    size = min(size or question.rows, question.rows)
    steps = rounds * question.epochs * math.ceil(question.rows / size)
    rate, relation = size / question.rows, cast(Relation, question.relation)
    accountant = cast(Accountant, question.accountant)
    if target is not None:
        probe = Release("poisson", 1.0, rate=rate)
        noise = calibrate(probe, steps, target, question.delta, relation, accountant=accountant)
    releases = {Release("poisson", noise, rate=rate): steps}
    found = guarantee(releases, question.delta, relation, accountant=accountant)
    line = described(Spent(1, found.epsilon, found.epsilon, releases), question.delta, relation)
    return ExamplePlan(
        question.rows, size, question.epochs, rounds, steps, noise, found.epsilon, relation, found.accountant, line
    )


def render(console: Console, plans: Sequence[ExamplePlan]) -> None:
    """The plans of a client's rows in words."""
    columns = {
        "batch size": "batch_size",
        "rounds": "rounds",
        "steps": "steps",
        "noise": "noise_multiplier",
        "epsilon": "epsilon",
        "relation": "relation",
        "by": "accountant",
    }
    render_plans(console, plans, columns)


def of_clients(ledgers: ClientLedgers, delta: float) -> dict[str, Any]:
    """What the clients' ledgers come to, each by itself. Raises IntegrityError for one that was changed."""
    found = ledgers.all()
    relations: dict[Relation, list[Ledger]] = {}
    for ledger in found.values():
        relations.setdefault(ledger.relation, []).append(ledger)
    each = {name: spent((one.releases() for one in kept), delta, name) for name, kept in relations.items()}
    worst: Relation = max(each, key=lambda name: each[name].greatest, default="add-remove")
    most = each.get(worst, Spent(0, 0.0, 0.0, {}))
    return {
        "ledgers": ledgers.folder.as_posix(),
        "clients": len(found),
        "charges": sum(len(ledger.charges) for ledger in found.values()),
        "steps": sum(sum(ledger.releases().values()) for ledger in found.values()),
        "runs": len({charge.run for ledger in found.values() for charge in ledger.charges}),
        "delta": delta,
        "relation": worst,
        "epsilon": most.greatest,
        "median_epsilon": most.median,
        "statement": described(most, delta, worst),
    }


def render_clients(console: Console, data: Mapping[str, Any]) -> None:
    """Clients' ledgers in words."""
    said = f"{data['steps']} steps of {data['clients']} clients in {data['runs']} runs, a ledger for each client"
    console.print(said, markup=False)
    console.print(data["statement"], markup=False)


def verified(ledgers: ClientLedgers) -> dict[str, Any]:
    """How many ledgers with how many charges there are, all of whose chains are whole. Raises IntegrityError."""
    found = ledgers.all().values()
    charges = sum(len(ledger.charges) for ledger in found)
    return {"ledgers": ledgers.folder.as_posix(), "clients": len(found), "charges": charges}

"""Plans for the rows of one client under `dp-examples`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast, get_args

from flctl_dp.accounting.accountants import Accountant, guarantee
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.figures import weak
from flctl_dp.accounting.releases import RELATIONS, Relation, Release
from flctl_dp.budget.example_budget import described
from flctl_dp.budget.terms import delta_warning, refuse_delta
from flctl_dp.commands.plans import render_plans, require_known
from flctl_dp.ledgers.client_ledgers import Spent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ExamplePlan", "ExampleQuestion", "render"]


@dataclass(frozen=True, slots=True)
class ExampleQuestion:
    """The options of `flctl dp plan-examples` that all plans of a grid share: one client with `rows` rows, which makes
    `epochs` epochs a round."""

    rows: int
    epochs: int
    delta: float
    relation: str
    accountant: str

    def check(self) -> None:
        """Raises ConfigError for an unknown word, or a delta of 1 / rows or more."""
        require_known(("--relation", self.relation, RELATIONS), ("--accountant", self.accountant, get_args(Accountant)))
        refuse_delta("--delta", self.delta, self.rows, "row")

    def plan(self, size: int, rounds: int, noise: float, target: float | None) -> ExamplePlan:
        """The plan for batches of `size` rows on average; 0: all rows."""
        size = min(size or self.rows, self.rows)
        steps = rounds * self.epochs * math.ceil(self.rows / size)
        rate, relation, accountant = size / self.rows, cast(Relation, self.relation), cast(Accountant, self.accountant)
        if target is not None:
            probe = Release("poisson", 1.0, rate=rate)
            noise = calibrate(PlannedRounds(probe, steps), PrivacyTarget(target, self.delta, relation, accountant))
        releases = {Release("poisson", noise, rate=rate): steps}
        found = guarantee(releases, self.delta, relation, accountant=accountant)
        return ExamplePlan(
            rows=self.rows,
            batch_size=size,
            epochs=self.epochs,
            rounds=rounds,
            steps=steps,
            noise_multiplier=noise,
            epsilon=found.epsilon,
            relation=relation,
            accountant=found.accountant,
            statement=described(Spent(1, found.epsilon, found.epsilon, releases), self.delta, relation),
            warnings=[text for text in (delta_warning(self.delta, self.rows, "row"), weak(found.epsilon)) if text],
        )


@dataclass(frozen=True, slots=True)
class ExamplePlan:
    """The privacy cost to the rows of one client that takes part in all rounds."""

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
    warnings: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def render(console: Console, plans: Sequence[ExamplePlan]) -> None:
    """Prints the plans of a client's rows."""
    columns = {
        "batch size": "batch_size",
        "rounds": "rounds",
        "steps": "steps",
        "noise multiplier": "noise_multiplier",
        "epsilon": "epsilon",
        "relation": "relation",
        "accountant": "accountant",
    }
    render_plans(console, plans, columns)

"""The budget of each client's rows: how much noise keeps to it, whether a round does, and what is to be said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flctl import IncompatibleError, LocalWork, PrivacyBudgetError
from flctl.errors import counted

from flctl_dp.accounting.accountants import epsilon, guarantee, supports
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.figures import rounded_up
from flctl_dp.accounting.rdp_bounds import bound, least_noise
from flctl_dp.accounting.releases import Relation, Release, Releases
from flctl_dp.budget.statements import ACCOUNTED, named
from flctl_dp.ledgers.client_ledgers import FOLDER, MANY, ClientLedgers, Frozen, Spent, coarse, frozen, raised_rate

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["ExampleTerms", "Steps", "calibrated", "described", "refuse_excess", "released", "steps_of", "within"]

Steps = tuple[tuple[float, int], ...]
"""(rate, count): how many steps a client makes in a round in which each of its rows is taken with that rate."""
_FEW = 8
"""Kinds of clients whose noise is found by privacy loss distributions, which takes seconds for each."""


@dataclass(frozen=True, slots=True)
class ExampleTerms:
    """Accounting, budget and ledgers of a run's steps. `many`: rates are rounded up, since clients are of more than 64
    kinds."""

    relation: Relation
    delta: float
    target: float | None
    rounds: int
    ledgers: ClientLedgers
    many: bool = False

    @classmethod
    def of(cls, run: RunInfo, config: Any) -> ExampleTerms:
        """The terms of a run with the options of its transform."""
        folder = Path(config.ledger) if config.ledger else run.partition.path / FOLDER
        relation: Relation = config.relation or "add-remove"
        many = len(np.unique(run.partition.counts[:, 0])) > MANY
        return cls(relation, config.target_delta, config.target_epsilon, run.config.rounds, ClientLedgers(folder), many)


def steps_of(run: RunInfo, rows: int) -> Steps:
    """The steps of a client with `rows` rows in a round, over all stages of its training."""
    found: dict[float, int] = {}
    for stage in run.strategy.stages(run.config.local.amount()):
        rate, count = _stage(stage.local, rows)
        if count:
            found[rate] = found.get(rate, 0) + count
    return tuple(found.items())


def _stage(local: LocalWork, rows: int) -> tuple[float, int]:
    """The rate and the number of a stage's steps, as `StepsContext` has them."""
    size = local.batch_size or max(rows, 1)
    batches = math.ceil((rows - rows % size if local.drop_last else rows) / size)
    count = local.epochs * batches if local.steps is None else (local.steps if batches else 0)
    return min(size, rows) / max(rows, 1), count


def released(steps: Steps, noise: float) -> Releases:
    """The releases of a round with this noise."""
    return {Release("poisson", noise, rate=rate): count for rate, count in steps}


def calibrated(terms: ExampleTerms, clients: Mapping[int, Steps], before: Mapping[int, Releases]) -> dict[int, float]:
    """A noise multiplier for each client, with which `terms.rounds` rounds stay within the target, after what was
    released `before`. Raises PrivacyBudgetError where no noise is enough.

    Where clients are of many kinds, those of alike rates have one noise, found by Renyi DP: somewhat more than they
    need.
    """
    kinds = {
        client_index: (_bounding(steps), frozen(before.get(client_index, {})))
        for client_index, steps in clients.items()
        if steps
    }
    many = len(set(kinds.values())) > _FEW
    if many:
        kinds = dict(_classed(kinds))
    found = {kind: _noise(terms, *kind, many=many) for kind in dict.fromkeys(kinds.values())}
    return {client_index: found[kind] for client_index, kind in kinds.items()}


_Kind = tuple[tuple[float, int], Frozen]


def _bounding(steps: Steps) -> tuple[float, int]:
    """Steps of one rate that cost no less."""
    return max(rate for rate, _ in steps), sum(count for _, count in steps)


def _classed(kinds: Mapping[int, _Kind]) -> Iterator[tuple[int, _Kind]]:
    """The kinds as `coarse` accounts them, with the highest count of their class."""
    raised = {n: (raised_rate(rate), count, frozen(coarse(dict(past)))) for n, ((rate, count), past) in kinds.items()}
    highest: dict[tuple[float, Frozen], int] = {}
    for rate, count, past in raised.values():
        highest[rate, past] = max(count, highest.get((rate, past), 0))
    for client_index, (rate, _, past) in raised.items():
        yield client_index, ((rate, highest[rate, past]), past)


def _noise(terms: ExampleTerms, steps: tuple[float, int], past: Frozen, *, many: bool) -> float:
    if terms.target is None:
        raise IncompatibleError("neither a noise multiplier nor a target epsilon is given")
    (rate, count), target, delta, relation = steps, terms.target, terms.delta, terms.relation
    probe, wanted, before = Release("poisson", 1.0, rate=rate), count * terms.rounds, dict(past)
    quick = least_noise(probe, wanted, target, delta, relation, before) if many else 0.0
    return quick or calibrate(PlannedRounds.after(before, probe, wanted), PrivacyTarget(target, delta, relation))


def within(before: Releases, more: Releases, terms: ExampleTerms) -> bool:
    """True if `more`, after the releases `before`, stays within the target."""
    if terms.target is None or not more:
        return True
    if terms.many:
        before, more = coarse(before), coarse(more)
    repeated = min(before.get(release, 0) // count for release, count in more.items())
    others = {release: count - repeated * more.get(release, 0) for release, count in before.items()}
    rest = frozen({release: count for release, count in others.items() if count})
    # Asked about few totals, so that most rounds find their answer kept.
    total = max(repeated + 1, min(1 << (repeated + 1).bit_length(), terms.rounds))
    return repeated < _most(rest, frozen(more), total, terms.target, terms.delta, terms.relation)


@lru_cache(maxsize=1 << 16)
def _most(others: Frozen, more: Frozen, total: int, target: float, delta: float, relation: Relation) -> int:
    """The number of times that `more` fits beside the others, at most `total`."""

    def fits(count: int) -> bool:
        planned = dict(others)
        for release, each in more:
            planned[release] = planned.get(release, 0) + count * each
        return bound(planned, delta, relation) <= target or epsilon(planned, delta, relation) <= target

    if fits(total):
        return total
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def refuse_excess(terms: ExampleTerms, round_number: int, client: str, before: Releases, more: Releases) -> None:
    """Raises PrivacyBudgetError where round `round_number` would take a client's rows beyond the target."""
    if within(before, more, terms):
        return
    so_far = epsilon(before, terms.delta, terms.relation)
    raise PrivacyBudgetError(
        f"round {round_number} would exceed epsilon {terms.target:g} of the rows of client '{client}': the "
        f"{counted(sum(before.values()), 'step')} so far amount to {rounded_up(so_far)} (delta {terms.delta:g}, "
        f"{terms.relation})",
        hint="For more rounds, raise transforms.dp-examples.target_epsilon, or plan with more noise: "
        "`flctl dp plan-examples --help`.",
    )


def described(found: Spent, delta: float, relation: Relation) -> str:
    """The guarantee of the clients' rows in one line; epsilon is rounded up."""
    if not found.clients:
        return "nothing was released"
    by = ACCOUNTED[guarantee(found.releases, delta, relation).accountant]
    if by == "PLD" and supports(found.releases, relation, "rdp"):
        by += f" (RDP {rounded_up(epsilon(found.releases, delta, relation, accountant='rdp'), 3)})"
    median = f"the largest of {counted(found.clients, 'client')}, median {rounded_up(found.median)}; "
    others = median if found.clients > 1 else ""
    return (
        f"(eps={rounded_up(found.greatest)}, delta={delta:g})-DP, example level, {relation}, "
        f"{'; '.join(named(found.releases))}, {by}, against any observer of the client's updates, including the "
        f"server; {others}the number of rows of a client is public; evaluations not covered"
    )

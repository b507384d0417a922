"""Notices before a run: what earlier runs have spent, and what is left for this one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flctl import Notice
from flctl.errors import counted

from flctl_dp.accounting.accountants import epsilon, quick_epsilon, supports
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, affordable, calibrate, together
from flctl_dp.accounting.figures import ABOVE_WHICH_WEAK, rounded_up, weak
from flctl_dp.accounting.releases import Releases
from flctl_dp.budget.terms import Terms, delta_warning
from flctl_dp.ledgers.ledger import Ledger, LedgerFile, Promise
from flctl_dp.ledgers.registry import other_ledgers

__all__ = ["Planned", "more_noise", "notices", "same_rows"]

_TOO_MUCH = 1.5
"""Ratio of the noise that is left to the noise of a first run, above which the run has to be confirmed."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that has not started. `size` is the number of values of an update, `rows` the digest of the source rows."""

    name: str
    terms: Terms
    delta: float
    target: float | None
    noise: float | None
    rounds: int
    size: int
    rows: str


def notices(planned: Planned) -> Iterator[Notice]:
    """The notices of a run whose unit is a client. Raises PrivacyBudgetError if nothing of the target is left."""
    warning = delta_warning(planned.delta, planned.terms.population)
    if warning:
        yield Notice(warning)
    ledger = LedgerFile(planned.terms.ledger).read()
    spent = ledger.releases() if ledger is not None else {}
    yield from same_rows(planned.name, planned.rows, planned.terms.ledger)
    if ledger is not None and ledger.relation != planned.terms.relation:
        return  # refused when the run starts, with the reason
    if planned.noise is None:
        yield from _calibrated(planned, spent)
    else:
        yield from _given(_budgeted(planned, ledger), planned.noise, spent)


def _budgeted(planned: Planned, ledger: Ledger | None) -> Planned:
    """The run with the ledger's target and delta, as a pair, if it has no target."""
    recorded = ledger.promise if ledger is not None else Promise()
    if planned.target is not None or recorded.target is None:
        return planned
    return replace(planned, target=recorded.target, delta=recorded.delta or planned.delta)


def _calibrated(planned: Planned, spent: Releases) -> Iterator[Notice]:
    terms, target = planned.terms, planned.target
    if target is None or not spent:
        return
    release, rounds, budget = terms.release(1.0), planned.rounds, PrivacyTarget(target, planned.delta, terms.relation)
    first = calibrate(PlannedRounds(release, rounds), budget)
    now = calibrate(PlannedRounds.after(spent, release, rounds), budget)
    if now > _TOO_MUCH * first:
        used = epsilon(spent, planned.delta, terms.relation)
        signal = f"noise of the mean update: {now * math.sqrt(planned.size) / terms.cohort:.3g} clipping norms in L2"
        yield more_noise(f"releases of this population ({rounded_up(used)} of epsilon {target:g})", first, now, signal)


def more_noise(spent: str, first: float, now: float, signal: str) -> Notice:
    """The notice of a run whose noise is far above that of a first run on the same data."""
    return Notice(
        f"earlier runs have spent most of the budget on {spent}: to stay within the budget, this run needs the noise "
        f"multiplier {now:.4g}, and a first run would need {first:.4g} (factor {now / first:.3g}; {signal}, and an "
        "update has at most 1). The model may hardly learn. Raise target_epsilon, or use fewer rounds",
        confirm=True,
    )


def _given(planned: Planned, noise: float, spent: Releases) -> Iterator[Notice]:
    terms, delta, target = planned.terms, planned.delta, planned.target
    release = terms.release(noise)
    planning = together(spent, release, planned.rounds)
    if not any(supports(planning, terms.relation, accountant) for accountant in ("pld", "rdp")):
        return  # refused when the run starts, with the reason
    if target is not None and spent:
        rounds = PlannedRounds.after(spent, release, planned.rounds)
        left = affordable(rounds, PrivacyTarget(target, delta, terms.relation))
        if left < planned.rounds:
            used = rounded_up(epsilon(spent, delta, terms.relation))
            yield Notice(
                f"earlier runs have spent {used} of epsilon {target:g}: the budget ends this run after {left} of "
                f"{counted(planned.rounds, 'round')}. Raise target_epsilon, or use fewer rounds",
                confirm=True,
            )
    if quick_epsilon(planning, delta, terms.relation) > ABOVE_WHICH_WEAK:
        warning = weak(epsilon(planning, delta, terms.relation))
        if warning and target is None:
            yield Notice(f"after {counted(planned.rounds, 'round')}, {warning}")


def same_rows(name: str, rows: str, ledger: Path) -> Iterator[Notice]:
    """A notice for each other ledger about the same source rows: this run would not add up with it."""
    for other in other_ledgers(rows, ledger):
        yield Notice(
            f"the same source rows have another ledger, {other}, which would not include this run. Use -o "
            f"transforms.{name}.ledger={other.as_posix()} to compose both",
            confirm=True,
        )

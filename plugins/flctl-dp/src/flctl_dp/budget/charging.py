"""The charge of a round, before it starts: its noise, its cost, and the refusal of a round beyond the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from flctl import IncompatibleError, IntegrityError, PrivacyBudgetError
from flctl.errors import counted

from flctl_dp.accounting.accountants import epsilon, supports
from flctl_dp.accounting.calibration import HIGHEST, PlannedRounds, PrivacyTarget, affordable, calibrate
from flctl_dp.accounting.figures import rounded_up
from flctl_dp.accounting.releases import Release, Releases
from flctl_dp.budget.terms import Terms
from flctl_dp.ledgers.ledger import Ledger, LedgerFile, Promise

__all__ = ["HIGHEST", "Asked", "charge", "fresh_noise", "planned_noise"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A round to charge before it starts.

    `noise` is the noise multiplier; None if it has to be calibrated. `head` is the digest of the run's last charge;
    None before the first. `rounds` is the planned number of rounds. `check` raises if a round cannot use a noise
    multiplier.
    """

    terms: Terms
    delta: float
    target: float | None
    noise: float | None
    run: str
    head: str | None
    round: int
    rounds: int
    check: Callable[[float], object]


def charge(asked: Asked) -> tuple[float, str]:
    """Charges the round and returns its noise multiplier and the ledger's new head, which is on disk by then.

    Every refusal comes before the charge. Raises PrivacyBudgetError if the round would exceed the target, which is that
    of the run, or else the last that the ledger records, at the delta recorded with it; IncompatibleError or
    IntegrityError if the ledger is not the one that the run was charged to; and what `asked.check` raises.
    """
    file = LedgerFile(asked.terms.ledger)
    with file.locked():
        if asked.head is not None and not file.path.exists() and file.read() is None:
            raise IntegrityError(
                f"{file.path} is missing, and the run's checkpoint depends on it", hint="Restore it from a copy."
            )
        ledger = file.open(asked.terms.name, asked.terms.relation)
        if asked.head is not None and not ledger.holds(asked.head):
            raise IncompatibleError(
                f"{file.path} has no line {asked.head[:12]}, on which the run's checkpoint depends: it is a diverged "
                "copy, or the ledger of another population",
                hint="Restore the ledger that this run was charged to.",
            )
        noise = asked.noise if asked.noise is not None else _calibrated(asked, ledger)
        release = _released(asked, ledger, noise)
        _refuse_unaccountable(ledger, release, asked.terms)
        _refuse_excess(_budgeted(asked, ledger), ledger, release)
        asked.check(noise)
        promise = Promise(asked.delta, asked.target, asked.terms.population)
        return noise, file.charge(ledger, asked.run, asked.round, release, promise=promise).digest


def planned_noise(terms: Terms, noise: float | None) -> float:
    """The noise multiplier of a replayed round, which is not charged: the given one, or that of the last charge."""
    ledger = None if noise is not None else LedgerFile(terms.ledger).read()
    if ledger is None or not ledger.charges:
        return noise or 1.0
    return ledger.charges[-1].release.noise_multiplier


@lru_cache(maxsize=16)
def fresh_noise(terms: Terms, target: float, delta: float, rounds: int) -> float:
    """The noise multiplier with which a run without earlier charges keeps to its target."""
    planned = PlannedRounds.after({}, terms.release(1.0), rounds, first=1)
    return calibrate(planned, PrivacyTarget(target, delta, terms.relation))


def _released(asked: Asked, ledger: Ledger, noise: float) -> Release:
    """The release of the round. A resumed run may have released it before, with other noise."""
    release = asked.terms.release(noise)
    furthest = max((charge.round for charge in ledger.charges if charge.run == asked.run), default=0)
    return release.at(asked.round) if asked.round > furthest else release.again()


def _calibrated(asked: Asked, ledger: Ledger) -> float:
    if asked.target is None:
        raise IncompatibleError("neither a noise multiplier nor a target epsilon is given")
    left, probe = asked.rounds - asked.round + 1, asked.terms.release(1.0)
    planned = PlannedRounds.after(ledger.releases(), probe, left, first=asked.round)
    return calibrate(planned, PrivacyTarget(asked.target, asked.delta, asked.terms.relation))


def _refuse_unaccountable(ledger: Ledger, release: Release, terms: Terms) -> None:
    """Raises IncompatibleError for a release that no accountant can add to the ledger's."""
    planned = {**ledger.releases(), release: 1}
    if not any(supports(planned, terms.relation, accountant) for accountant in ("pld", "rdp")):
        raise IncompatibleError(
            f"no accountant composes {release} with the releases in {terms.ledger}, under {terms.relation}",
            hint="Use the sampling of the earlier runs, or --sampling-rate with -o transforms.dp.relation=add-remove, "
            "or start a new ledger with -o transforms.dp.ledger=PATH.",
        )


def _budgeted(asked: Asked, ledger: Ledger) -> Asked:
    """The round with the ledger's target and delta, as a pair, if its run has no target."""
    recorded = ledger.promise
    if asked.target is not None or recorded.target is None:
        return asked
    return replace(asked, target=recorded.target, delta=recorded.delta or asked.delta)


def _refuse_excess(asked: Asked, ledger: Ledger, release: Release) -> None:
    spent, relation, target = ledger.releases(), asked.terms.relation, asked.target
    if target is None or _fits(asked, spent, release, target):
        return
    so_far = epsilon(spent, asked.delta, relation)
    raise PrivacyBudgetError(
        f"round {asked.round} would exceed the population's epsilon {target:g}: its "
        f"{counted(sum(spent.values()), 'release')} so far amount to {rounded_up(so_far)} (delta {asked.delta:g}, "
        f"{relation})",
        hint="For more rounds, raise transforms.dp.target_epsilon, or plan with more noise: `flctl dp plan --help`.",
    )


def _fits(asked: Asked, spent: Releases, release: Release, target: float) -> bool:
    budget, done = PrivacyTarget(target, asked.delta, asked.terms.relation), spent.get(release, 0)
    if release.sampling == "cyclic":  # each round costs something else
        return budget.is_met_by({**spent, release: done + 1})
    others = {other: count for other, count in spent.items() if other != release}
    return done < _most(PlannedRounds.after(others, release, done + asked.rounds - asked.round + 1), budget)


@lru_cache(maxsize=64)
def _most(planned: PlannedRounds, budget: PrivacyTarget) -> int:
    """The number of the planned rounds that the budget holds."""
    return affordable(planned, budget)

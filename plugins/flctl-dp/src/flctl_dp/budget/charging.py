"""Before a round: what it would cost, whether that is left, and the charge. After it: what is to be said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from flctl import IncompatibleError, IntegrityError, PrivacyBudgetError

from flctl_dp.accounting.accountants import epsilon, guarantee, quick_epsilon, supports
from flctl_dp.accounting.calibration import HIGHEST, affordable, calibrate
from flctl_dp.accounting.releases import Relation, Release, Releases
from flctl_dp.budget.terms import Terms
from flctl_dp.ledgers.ledger import Ledger, LedgerFile

__all__ = ["ACCOUNTED", "HIGHEST", "INSECURE", "Asked", "charge", "named", "statement", "told"]

INSECURE = "(eps=inf)-DP: noise and cohorts follow from insecure_seed, which is for tests; nothing is private"
ACCOUNTED: Mapping[str, str] = {"gaussian": "exact Gaussian", "pld": "PLD", "rdp": "RDP"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A round that wants to start. `noise` is None where it is still to be found; `head` is the run's last charge, None
    before its first; `rounds` is how many the run wants in all."""

    terms: Terms
    delta: float
    target: float | None
    noise: float | None
    run: str
    head: str | None
    round: int
    rounds: int


def charge(asked: Asked) -> tuple[float, str]:
    """Charges the round and returns its noise multiplier and the ledger's new head, which is on disk by then.

    Raises PrivacyBudgetError where the round would exceed the target, IncompatibleError or IntegrityError where the
    ledger is not that which the run's checkpoint rests on.
    """
    file = LedgerFile(asked.terms.ledger)
    with file.locked():
        if asked.head is not None and not file.path.exists() and file.read() is None:
            raise IntegrityError(f"{file.path} is gone, and the run's checkpoint rests on it", hint="Put it back.")
        ledger = file.open(asked.terms.name, asked.terms.relation)
        if asked.head is not None and not ledger.holds(asked.head):
            raise IncompatibleError(
                f"{file.path} has no line {asked.head[:12]}, on which the run's checkpoint rests: it was forked, or is "
                "that of another population",
                hint="Put the ledger back that this run was charged to.",
            )
        noise = asked.noise if asked.noise is not None else _calibrated(asked, ledger)
        release = _released(asked, ledger, noise)
        _refuse_unaccountable(ledger, release, asked.terms)
        if asked.target is not None:
            _refuse_excess(asked, ledger, release, asked.target)
        return noise, file.charge(ledger, asked.run, asked.round, release).digest


def _released(asked: Asked, ledger: Ledger, noise: float) -> Release:
    """What the round releases, this time: a run that is resumed may have released it before, with other noise."""
    release = asked.terms.release(noise)
    furthest = max((charge.round for charge in ledger.charges if charge.run == asked.run), default=0)
    return release.at(asked.round) if asked.round > furthest else release.again()


def _calibrated(asked: Asked, ledger: Ledger) -> float:
    if asked.target is None:
        raise IncompatibleError("neither a noise multiplier nor a target epsilon is given")
    left = asked.rounds - asked.round + 1
    probe, relation = asked.terms.release(1.0), asked.terms.relation
    return calibrate(probe, left, asked.target, asked.delta, relation, spent=ledger.releases(), first=asked.round)


def _refuse_unaccountable(ledger: Ledger, release: Release, terms: Terms) -> None:
    """Before the charge: what no accountant can add up must not be released."""
    planned = {**ledger.releases(), release: 1}
    if not any(supports(planned, terms.relation, accountant) for accountant in ("pld", "rdp")):
        raise IncompatibleError(
            f"no accountant adds {release} up with what {terms.ledger} holds, under {terms.relation}",
            hint="Sample as the runs before did, or by transforms.dp.relation=add-remove and Poisson sampling alone.",
        )


def _refuse_excess(asked: Asked, ledger: Ledger, release: Release, target: float) -> None:
    spent, relation = ledger.releases(), asked.terms.relation
    if _fits(asked, spent, release, target):
        return
    so_far = epsilon(spent, asked.delta, relation)
    raise PrivacyBudgetError(
        f"round {asked.round} would take the population beyond epsilon {target:g}: its {sum(spent.values())} "
        f"releases so far come to {so_far:.4g} (delta {asked.delta:g}, {relation})",
        hint="More rounds need a larger transforms.dp.target_epsilon, or more noise from the start: `flctl dp plan`.",
    )


def _fits(asked: Asked, spent: Releases, release: Release, target: float) -> bool:
    relation, done = asked.terms.relation, spent.get(release, 0)
    if release.sampling == "cyclic":  # each round costs something else
        return epsilon({**spent, release: done + 1}, asked.delta, relation) <= target
    others = tuple(sorted(((r, n) for r, n in spent.items() if r != release), key=repr))
    total = done + asked.rounds - asked.round + 1
    return done < _most(others, release, total, target, asked.delta, relation)


@lru_cache(maxsize=64)
def _most(
    others: tuple[tuple[Release, int], ...],
    release: Release,
    total: int,
    target: float,
    delta: float,
    relation: Relation,
) -> int:
    """How many of `release` fit beside the others, of `total` that are wanted."""
    return affordable(dict(others), release, total, target, delta, relation)


def told(terms: Terms, delta: float, target: float | None, run: str, finished: bool) -> dict[str, float | str]:
    """What a round's line says: epsilon of the run, and of all that was released of its population; and the statements
    about both, of a run that is finished. What was charged within the `target` is told as no more than that, whatever
    the quicker accountant says of it."""
    ledger = LedgerFile(terms.ledger).read()
    if ledger is None:
        return {}
    own, everything, relation = ledger.releases(run), ledger.releases(), terms.relation
    if finished:
        return {
            "epsilon": epsilon(own, delta, relation),
            "population_epsilon": epsilon(everything, delta, relation),
            "delta": delta,
            "statement": statement(own, delta, relation),
            "population": statement(everything, delta, relation),
        }
    most = math.inf if target is None else target
    latest = most if ledger.charges[-1].run == run else math.inf  # others may have another target
    return {
        "epsilon": min(quick_epsilon(own, delta, relation), most),
        "population_epsilon": min(quick_epsilon(everything, delta, relation), latest),
        "delta": delta,
    }


def statement(releases: Releases, delta: float, relation: Relation) -> str:
    """One line that says what is guaranteed, of what, between what, against whom, and what is left out."""
    if not releases:
        return "nothing was released"
    found = guarantee(releases, delta, relation)
    seen = guarantee(releases, delta, relation, "server")
    names = "; ".join(named(releases))
    by = ACCOUNTED[found.accountant]
    if found.accountant == "pld" and supports(releases, relation, "rdp"):
        by += f" (RDP {epsilon(releases, delta, relation, accountant='rdp'):.3g})"
    against = f"against the server, who sees who took part ({seen.relation}), eps={seen.epsilon:.4g}"
    return (
        f"(eps={found.epsilon:.4g}, delta={delta:g})-DP, client level, {relation}, {names}, {by}, against the release; "
        f"{against}; metrics not covered"
    )


def named(releases: Releases) -> Iterator[str]:
    """Each kind of release with its noise, and how many there are of it; the rounds of DP-FTRL together."""
    kinds: dict[tuple[str, float], Counter[int]] = {}
    for release, count in releases.items():
        kinds.setdefault((str(release), release.noise_multiplier), Counter())[release.place] += count
    for (name, noise), places in kinds.items():
        participations = f", at most {places[1]} participations," if places[1] else ""
        yield f"{name}{participations} z={noise:.4g} T={places.total()}"

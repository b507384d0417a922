"""The privacy statement of a run: unit, relation, sampling, accountant, epsilon, delta, and the adversary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from flctl_dp.accounting.accountants import epsilon, guarantee, quick_epsilon, supports
from flctl_dp.accounting.figures import rounded_up
from flctl_dp.accounting.releases import Relation, Releases
from flctl_dp.budget.terms import Terms
from flctl_dp.ledgers.ledger import LedgerFile

__all__ = ["ACCOUNTED", "INSECURE", "named", "report", "statement"]

INSECURE = "(eps=inf)-DP: insecure_seed (for tests) determines noise and cohorts, so there is no privacy"
ACCOUNTED: Mapping[str, str] = {"gaussian": "exact Gaussian", "pld": "PLD", "rdp": "RDP"}


def report(terms: Terms, delta: float, target: float | None, run: str, *, finished: bool) -> dict[str, float | str]:
    """The entries of a round's line: epsilon of the run, and of the population over all its runs; for a finished run
    also the statements about both.

    Before the end, epsilon is the quick upper bound, capped at the `target` within which the rounds were charged.
    """
    ledger = LedgerFile(terms.ledger).read()
    if ledger is None:
        return {}
    own, everything, relation = ledger.releases(run), ledger.releases(), terms.relation
    if finished:
        return {
            "epsilon": epsilon(own, delta, relation),
            "population_epsilon": epsilon(everything, delta, relation),
            "delta": delta,
            "unit": "client",
            "statement": statement(own, delta, relation),
            "population": statement(everything, delta, relation),
        }
    most = math.inf if target is None else target
    latest = most if ledger.charges[-1].run == run else math.inf  # other runs may have another target
    return {
        "epsilon": min(quick_epsilon(own, delta, relation), most),
        "population_epsilon": min(quick_epsilon(everything, delta, relation), latest),
        "delta": delta,
    }


def statement(releases: Releases, delta: float, relation: Relation) -> str:
    """The guarantee in one line: epsilon (rounded up), unit, relation, adversary, and what is not covered."""
    if not releases:
        return "nothing was released"
    found = guarantee(releases, delta, relation)
    by = ACCOUNTED[found.accountant]
    if found.accountant == "pld" and supports(releases, relation, "rdp"):
        by += f" (RDP {rounded_up(epsilon(releases, delta, relation, accountant='rdp'), 3)})"
    return (
        f"(eps={rounded_up(found.epsilon)}, delta={delta:g})-DP, client level, {relation}, "
        f"{'; '.join(named(releases))}, {by}, {_adversary(releases, delta, relation)}"
    )


def _adversary(releases: Releases, delta: float, relation: Relation) -> str:
    """The adversaries of a guarantee. The server is one only if it never holds a sum without noise."""
    if not any(release.noised_by_server for release in releases):
        return "against the server and any observer of the cohorts; evaluations not covered"
    seen = guarantee(releases, delta, relation, "observer")
    return (
        f"against the release; against observers who also see the cohorts ({seen.relation}), "
        f"eps={rounded_up(seen.epsilon)}; the server is trusted with the sum; metrics not covered"
    )


def named(releases: Releases) -> Iterator[str]:
    """Each kind of release with its noise multiplier z and its number T; the rounds of DP-FTRL count as one kind."""
    kinds: dict[tuple[str, float], Counter[int]] = {}
    for release, count in releases.items():
        kinds.setdefault((str(release), release.noise_multiplier), Counter())[release.place] += count
    for (name, noise), places in kinds.items():
        participations = f", at most {places[1]} participations," if places[1] else ""
        yield f"{name}{participations} z={noise:.4g} T={places.total()}"

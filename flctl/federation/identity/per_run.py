"""The identities of one run, from the federation's roster, its plan and the own keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flctl.algorithms.run_identities import RunIdentities
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Roster

__all__ = ["run_identities"]


def run_identities(
    roster: Roster, plan_digest: str, sites: Iterable[str], directory: Path, identity: Identity | None = None
) -> RunIdentities:
    """Returns the identities of a run's sites, for `Aggregator.enrolled`.

    `directory` is for records that outlive the run; `identity` is the own one, at a site. Raises UntrustedError
    (`unknown`) unless the roster lists all sites, and the own identity as one of them. A site whose last day is over
    stays on the list, and is refused where its messages arrive: otherwise it would end the sums of all others.
    """
    names = list(sites)
    if strangers := [name for name in names if name not in roster.sites]:
        raise UntrustedError("unknown", f"{strangers[0]} is not a site of version {roster.version} of the roster")
    keys = {name: roster.sites[name].identity.signing for name in names}
    me = None
    if identity is not None:
        me = roster.name_of(identity.public.signing)
        if me not in keys:
            raise UntrustedError("unknown", "the own identity is not one of the plan's sites")
    return RunIdentities(
        run=plan_digest,
        operator=roster.operator,
        keys=keys,
        graph_seed=roster.graph_seed,
        digest=roster.digest,
        roster=roster.signed,
        directory=directory,
        me=me,
        sign=None if identity is None else identity.sign,
        secret=None if identity is None else identity.secret,
    )

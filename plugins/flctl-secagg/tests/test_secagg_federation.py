"""Runs at real sites: the roster of a run is derived from the federation's, and each site signs with its identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flctl_secagg.aggregator import SecureAggregation
from flctl_secagg.client.policy import Policy
from flctl_secagg.identity.keys import MemberKey
from flctl_secagg.identity.roster import RunRoster, roster_of
from flctl_secagg.storage import FederationHome
from secagg_support import AttemptError, Cohort, attempt_of

from flctl import ConfigError, IntegrityError
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.per_run import run_identities
from flctl.federation.identity.roster import Member, Roster

OPERATOR, HUB = Identity.new(), Identity.new()
NAMES = tuple(f"site-{place}" for place in range(5))
SITES = {name: Identity.new() for name in NAMES}
PLAN = "ab" * 32


def federation(**changes: object) -> Roster:
    members = {name: Member(identity.public, "2099-12-31") for name, identity in SITES.items()}
    values = {"operator": OPERATOR.public.signing, "graph_seed": bytes(range(32)), "hub": HUB.public, **changes}
    return Roster("hospitals", 1, "", url="https://fl.example", sites=members, coordinators={}, **values).signed_by(
        OPERATOR
    )


def identities(directory: Path, me: str | None = None, plan: str = PLAN, roster: Roster | None = None):
    return run_identities(roster or federation(), plan, NAMES, directory, None if me is None else SITES[me])


class OwnKeys:
    """Each site's own key, and no other's."""

    def __init__(self, directory: Path) -> None:
        self._keys = {name: MemberKey(identities(directory / name, name)) for name in NAMES}

    def signer(self, client: str):
        return self._keys[client].signer(client)

    def memory_key(self, client: str) -> bytes:
        return self._keys[client].memory_key(client)


def test_sites_of_a_federation_sum_under_their_own_identities(tmp_path: Path) -> None:
    roster = RunRoster.of(identities(tmp_path))
    policy = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, run=PLAN)
    cohort = Cohort(roster, OwnKeys(tmp_path), NAMES, policy=policy)
    unmasked = cohort.play(attempt_of(cohort))
    assert sorted(unmasked.survivors) == sorted(NAMES)


def test_the_roster_of_a_run_binds_plan_members_and_graph_seed(tmp_path: Path) -> None:
    made = [
        RunRoster.of(identities(tmp_path)),
        RunRoster.of(identities(tmp_path, plan="cd" * 32)),
        RunRoster.of(identities(tmp_path, roster=federation(graph_seed=bytes(32)))),
        RunRoster.of(run_identities(federation(), PLAN, NAMES[:4], tmp_path)),
    ]
    assert len({one.digest for one in made}) == 4
    assert made[0].digest == RunRoster.of(identities(tmp_path, "site-1")).digest
    again = roster_of(made[0].text(), Path("transcript"))
    assert (again, again.digest) == (made[0], made[0].digest)


def test_a_roster_of_a_run_with_other_keys_than_the_federations_is_refused(tmp_path: Path) -> None:
    made = RunRoster.of(identities(tmp_path))
    stranger = Identity.new().public.signing
    for forged in (
        replace(made, keys={**made.keys, "site-0": stranger}),
        replace(made, keys={**made.keys, "site-9": stranger}),
        replace(made, graph_seed=bytes(32)),
        replace(made, operator=stranger),
        replace(made, federation=made.federation.replace(b"hospitals", b"hospitalz")),
    ):
        with pytest.raises(IntegrityError):
            forged.check()
    with pytest.raises(IntegrityError, match="pinned operator"):
        made.check(stranger)


def test_a_site_signs_for_itself_alone_and_the_coordinator_for_no_site(tmp_path: Path) -> None:
    own = MemberKey(identities(tmp_path, "site-1"))
    assert own.memory_key("site-1") != MemberKey(identities(tmp_path, "site-2")).memory_key("site-2")
    for keys, client in ((own, "site-2"), (MemberKey(identities(tmp_path)), "site-1")):
        with pytest.raises(ConfigError, match="is not here"):
            keys.signer(client)
        with pytest.raises(ConfigError, match="is not here"):
            keys.memory_key(client)


def test_an_enrolled_aggregator_keeps_its_records_at_the_site(tmp_path: Path) -> None:
    aggregator = SecureAggregation().enrolled(identities(tmp_path / "records", "site-1"))
    assert isinstance(aggregator._home, FederationHome)
    assert aggregator._home.ledger().path == tmp_path / "records" / "ledger.sqlite"
    assert aggregator._policy(aggregator._home.roster()).run == PLAN
    assert not aggregator._policy(aggregator._home.roster()).simulation


def test_a_message_of_another_plan_is_refused(tmp_path: Path) -> None:
    policy = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, run=PLAN)
    cohort = Cohort(RunRoster.of(identities(tmp_path)), OwnKeys(tmp_path), NAMES, policy=policy)
    with pytest.raises(AttemptError):
        cohort.play(attempt_of(cohort, run="cd" * 32))
    assert {str(refusal) for refusal in cohort.refusals.values()} == {"policy: the session belongs to another run"}

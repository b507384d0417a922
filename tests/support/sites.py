"""A site's home as tests use it: joined, admitted, with a policy and a plan that waits."""

from __future__ import annotations

from pathlib import Path

from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Member, Roster
from flctl.federation.plan.plan import Plan
from flctl.federation.site.run_files import SiteRun

URL = "https://fl.example:8443"
POLICY = """\
approve: each
ask_for: [train, evaluate]
coordinators: [alice]
allow: {strategies: [fedavg], models: [mlp, approved], transforms: [clip], aggregators: [secagg]}
require: {aggregator: {name: secagg, mode: active, minimum: 3}}
limits: {rounds: 5, local_epochs: 1, minutes_a_round: 30, gb_a_day: 1, min_rows: 50, min_sites: 3, runs_at_once: 1}
share: {metrics: [count, loss], rows: exact, errors: kind}
"""


def make_home(path: Path, *plans: Plan, name: str = "north", policy: str = POLICY) -> SiteHome:
    """The home of the site `name` of the federation "hospitals", with three sites and the coordinator alice."""
    home, operator, hub = SiteHome(path), Identity.new(), Identity.new()
    own = Identity.create(home.identity)
    sites = {site: Member(Identity.new().public, "2027-12-31") for site in ("north", "south", "west")}
    sites[name] = Member(own.public, "2027-12-31")
    coordinators = {"alice": Member(Identity.new().public, "2027-12-31")}
    draft = Roster("hospitals", 1, "", operator.public.signing, URL, sites, coordinators, hub.public, bytes(32))
    membership = Membership("hospitals", name, "site", URL, operator.public)
    membership.write(home)
    membership.keeper(home).accept(draft.signed_by(operator).signed)
    home.policy.write_text(policy)
    for plan in plans:
        SiteRun.of(home, plan.run).keep_plan(plan.to_json(), b"")
    return home

"""Parts that the commands of a site's agent share: its folder, and the agent in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output

if TYPE_CHECKING:
    from flctl.federation.identity.homes import SiteHome
    from flctl.federation.member import FederationMember
    from flctl.federation.site.agent import SiteAgent

__all__ = ["SiteHomeFolder", "opened"]

SiteHomeFolder = Annotated[
    Path | None,
    typer.Option("--home", help="The site's folder; default: $FLCTL_SITE_HOME, else in the user's state folder."),
]
ADMITTED_SECONDS = 10.0


@contextmanager
def opened(home: Path | None, *, patient: bool) -> Iterator[SiteAgent]:
    """The agent of a home, which no other process uses meanwhile. `patient` waits until the site is admitted."""
    from flctl.cli.session import current_registry
    from flctl.federation.identity.homes import SiteHome
    from flctl.federation.site.agent import SiteAgent, locked
    from flctl.federation.site.journal import Journal
    from flctl.federation.site.policy_gate import PolicyGate

    place = SiteHome.at(home)
    with locked(place):
        member = _admitted(place, patient=patient)
        with member:
            journal, registry = Journal.open(place.journal), current_registry()
            gate = PolicyGate.open(place, member, registry, journal)
            yield SiteAgent(place, member, gate, journal, registry, output.note)


def _admitted(place: SiteHome, *, patient: bool) -> FederationMember:
    """The member in a home, once the operator has admitted it."""
    import time

    from flctl.federation.member import FederationMember
    from flctl.federation.reasons import Reason, Refused

    told = False
    while True:
        try:
            member = FederationMember.at(place, output.note)
            member.greet()
            return member
        except Refused as refused:
            if refused.reason is not Reason.ROSTER_MEMBER or not patient:
                raise
        if not told:
            output.note("the operator has not admitted this site yet; waiting")
        told = True
        time.sleep(ADMITTED_SECONDS)

"""Parts that the data owner's commands share: the home's option, the open desk, and the decision of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.plan.plan import Plan
    from flctl.federation.site.approvals import Totals, Verb
    from flctl.federation.site.desk import Desk

__all__ = ["HomeOption", "ReasonOption", "RunArgument", "decided", "opened_desk", "show_decision"]

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The site's folder; default: $FLCTL_SITE_HOME, else in the user's state folder."),
]
RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; default: the one that waits.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Reason of the decision, which is signed and sent to the coordinator.")
]


def opened_desk(home: Path | None) -> Desk:
    """Opens the home of a site."""
    from flctl.cli.session import current_registry
    from flctl.federation.identity.homes import SiteHome
    from flctl.federation.site.desk import Desk

    return Desk.open(SiteHome.at(home), current_registry())


def decided(
    desk: Desk, plan: Plan, verb: Verb, reason: str, *, until: str | None = None, totals: Totals | None = None
) -> dict[str, Any]:
    """Signs and records a decision about a plan, and returns what `--json` prints of it. Code of an approved plan is
    copied to the approved code first: an approval never names code that is not there."""
    from flctl.federation.site.policy import code_of

    code = sorted(code_of(plan)) if verb == "approve" else []
    for digest in code:
        desk.code.approve(digest)
    desk.approvals.keep(plan)
    desk.approvals.decide(desk.identity, plan, verb, reason, until=until, code=code, totals=totals)
    return {"run": plan.run, "plan": plan.digest, "decision": verb, "until": until or plan.until, "code": code}


def show_decision(result: dict[str, Any], *, as_json: bool) -> None:
    """Prints a decision that was recorded."""
    words = {"approve": "approved", "deny": "denied", "revoke": "revoked"}

    def show(console: Console) -> None:
        until = f" until {result['until']}" if result["decision"] == "approve" else ""
        console.print(
            output.plain(f"{result['run']}: {words[result['decision']]}{until} (plan {result['plan'][:12]})"),
            markup=False,
        )

    output.emit(f"site {result['decision']}", result, show, as_json=as_json)

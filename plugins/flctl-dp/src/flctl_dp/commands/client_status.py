"""The state of the clients' own ledgers, which `dp-examples` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flctl.errors import counted

from flctl_dp.accounting.releases import Relation
from flctl_dp.budget.example_budget import described
from flctl_dp.ledgers.client_ledgers import ClientLedgers, Spent, spent
from flctl_dp.ledgers.ledger import Ledger

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["of_clients", "render_clients", "verified"]

_DELTA = 1e-5
"""Delta if neither an option nor a ledger names one."""


def of_clients(ledgers: ClientLedgers, delta: float | None) -> dict[str, Any]:
    """The greatest and the median epsilon of the clients' ledgers. Raises IntegrityError for a changed one.

    `delta` defaults to the largest that a ledger was last charged under.
    """
    found = ledgers.all()
    delta = delta or max((ledger.promise.delta or 0.0 for ledger in found.values()), default=0.0) or _DELTA
    relations: dict[Relation, list[Ledger]] = {}
    for ledger in found.values():
        relations.setdefault(ledger.relation, []).append(ledger)
    each = {name: spent((one.releases() for one in kept), delta, name) for name, kept in relations.items()}
    worst: Relation = max(each, key=lambda name: each[name].greatest, default="add-remove")
    most = each.get(worst, Spent(0, 0.0, 0.0, {}))
    return {
        "ledgers": ledgers.folder.as_posix(),
        "clients": len(found),
        "charges": sum(len(ledger.charges) for ledger in found.values()),
        "steps": sum(sum(ledger.releases().values()) for ledger in found.values()),
        "runs": len({charge.run for ledger in found.values() for charge in ledger.charges}),
        "delta": delta,
        "relation": worst,
        "epsilon": most.greatest,
        "median_epsilon": most.median,
        "statement": described(most, delta, worst),
    }


def render_clients(console: Console, data: Mapping[str, Any]) -> None:
    """Prints the state of the clients' ledgers."""
    said = (
        f"{counted(data['steps'], 'step')} of {counted(data['clients'], 'client')} in {counted(data['runs'], 'run')}, "
        "a ledger for each client"
    )
    console.print(said, markup=False)
    console.print(data["statement"], markup=False)


def verified(ledgers: ClientLedgers) -> dict[str, Any]:
    """The number of ledgers and of charges, if all chains are unbroken. Raises IntegrityError otherwise."""
    found = ledgers.all().values()
    charges = sum(len(ledger.charges) for ledger in found)
    return {"ledgers": ledgers.folder.as_posix(), "clients": len(found), "charges": charges}

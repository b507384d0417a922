"""`flctl federation`: the commands of an operator and of a data scientist, one file each."""

from __future__ import annotations

import typer

from flctl.cli.federation import (
    admit,
    data,
    doctor,
    init,
    invite,
    join,
    mock,
    remove,
    renew,
    roster,
    schema,
    serve,
    status,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds `federation` to the application."""
    federation = typer.Typer(no_args_is_help=True, help="Train with sites that keep their data.")
    for module in (
        init,
        invite,
        admit,
        remove,
        renew,
        roster,
        doctor,
        join,
        schema,
        data,
        mock,
        serve,
        status,
    ):
        module.register(federation)
    app.add_typer(federation, name="federation")

"""`flctl site`: the commands of a data owner's machine, one file each."""

from __future__ import annotations

import typer

from flctl.cli.site import (
    approve,
    data,
    deny,
    doctor,
    join,
    log,
    policy,
    review,
    revoke,
    serve,
    trial,
    unit,
    work,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds `site` to the application."""
    site = typer.Typer(no_args_is_help=True, help="Keep data at their owner's machine and take part in federations.")
    for module in (
        join,
        data,
        doctor,
        serve,
        work,
        unit,
        policy,
        review,
        trial,
        approve,
        deny,
        revoke,
        log,
    ):
        module.register(site)
    app.add_typer(site, name="site")

"""`flctl federation mock`: an ordinary partition with made-up rows of a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `mock` to the group."""
    group.command("mock")(mock)


def mock(
    data: Annotated[Path, typer.Argument(help="A federated data directory, or a schema file.")],
    out: Annotated[Path, typer.Option("--out", help="The partition directory to create.")],
    rows: Annotated[int, typer.Option("--rows", help="Rows of each site.")] = 500,
    sites: Annotated[int, typer.Option("--sites", help="Number of sites, if DATA is a schema file.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Draw a partition from a schema alone, to develop and debug before any site is asked.

    Example: flctl federation mock fed/stroke --rows 500 --out parts/mock
    """
    from flctl.errors import counted
    from flctl.federation.coordinator.data import schema_and_sites
    from flctl.federation.schema.mock import write_mock

    schema, names = schema_and_sites(data, sites)
    written = write_mock(out, schema, names, rows, seed)
    told = {"partition": out.as_posix(), "sites": list(names), "rows": rows, "digest": written.digest}
    text = f"{out}: {counted(rows, 'made-up row')} for each of {', '.join(names)}"
    output.emit(
        "federation mock", told, as_json=as_json, render=lambda console: console.print(output.plain(text), markup=False)
    )

"""`flctl federation data`: a federated data directory from a schema and what sites declare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.partition.federated import FederatedData

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Adds `data` to the group."""
    group.command("data")(data)


def data(
    federation: Annotated[str, typer.Argument(help="The name of the federation.")],
    out: Annotated[Path, typer.Option("--out", help="The directory to create.")],
    schema: Annotated[Path, typer.Option("--schema", help="The schema that the sites agreed on.")],
    declared: Annotated[list[Path], typer.Option("--declared", help="A site's declared.json; may be repeated.")],
    as_json: JsonFlag = False,
) -> None:
    """Make a federated data directory: the schema, the sites and their declared rows, and no rows.

    Example: flctl federation data hospitals --schema stroke.schema.yaml --declared a.json --declared b.json
    --out fed/stroke
    """
    from flctl.federation.coordinator.data import assemble, read_declaration

    made = assemble(out, federation, schema, [read_declaration(path) for path in declared])
    told = {
        "directory": out.as_posix(),
        "digest": made.digest,
        "sites": list(made.client_ids),
        "rows": made.counts,
    }
    output.emit("federation data", told, as_json=as_json, render=lambda console: _render(console, out, made))


def _render(console: Console, out: Path, made: FederatedData) -> None:
    rows = [(site, *counts) for site, counts in zip(made.client_ids, made.counts.tolist(), strict=True)]
    output.table(console, ("site", "training rows", "test rows"), rows)
    console.print(f"{out}: digest {made.digest}", markup=False)

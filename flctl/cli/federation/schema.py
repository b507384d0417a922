"""`flctl federation schema`: check a schema file and print its digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.schema.schema import Schema, SchemaColumn

__all__ = ["register"]

SHOWN = 6
"""Levels that are printed of a column."""


def register(group: typer.Typer) -> None:
    """Adds `schema` to the group."""
    group.command("schema")(schema)


def schema(
    file: Annotated[Path, typer.Argument(help="The schema, a YAML file.")],
    as_json: JsonFlag = False,
) -> None:
    """Check a schema, list its columns, and print the digest that all sites compare.

    Example: flctl federation schema stroke.schema.yaml
    """
    from flctl.federation.schema.read import open_schema

    found = open_schema(file)
    data = {"digest": found.digest, "features": found.features, "schema": found.to_json()}
    output.emit("federation schema", data, as_json=as_json, render=lambda console: _render(console, found))


def _render(console: Console, schema: Schema) -> None:
    rows = [(column.name, column.kind, _values(column), column.missing) for column in schema.columns]
    output.table(console, ("column", "type", "values", "missing"), rows, left=4)
    target = ", ".join(schema.target.classes) or schema.target.unit or "a number"
    console.print(f"target {schema.target.name} ({schema.task}): {output.plain(target)}", markup=False)
    console.print(f"features {schema.features}\ndigest {schema.digest}", markup=False)


def _values(column: SchemaColumn) -> str:
    if column.kind == "category":
        others = f", ... ({len(column.levels)})" if len(column.levels) > SHOWN else ""
        return ", ".join(column.levels[:SHOWN]) + others
    span = "" if column.range is None else f"{column.range[0]:g} to {column.range[1]:g} "
    constants = "" if column.mean is None else f" mean {column.mean:g}, sd {column.sd:g}"
    return f"{span}{column.unit}{constants}".strip()

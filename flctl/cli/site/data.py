"""`flctl site data`: pack a file as the partition of one client, by the schema that all sites agreed on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.federation.site.packing import Packed

__all__ = ["register"]


class RowsChoice(StrEnum):
    """Row counts as a site declares them."""

    exact = "exact"
    rounded = "rounded"


def register(group: typer.Typer) -> None:
    """Adds `data` to the group."""
    group.command("data")(data)


def data(
    file: Annotated[Path, typer.Argument(help="The table: .csv, .parquet and others that `flctl partition` reads.")],
    schema: Annotated[Path | None, typer.Option("--schema", help="The schema that the sites agreed on.")] = None,
    test: Annotated[float, typer.Option("--test", help="Fraction of rows held out for testing.")] = 0.2,
    rows: Annotated[RowsChoice, typer.Option("--rows", help="Row counts that are declared.")] = RowsChoice.exact,
    propose: Annotated[bool, typer.Option("--propose", help="Print a draft of a schema; pack nothing.")] = False,
    target: Annotated[str | None, typer.Option("--target", help="The column to predict, for --propose.")] = None,
    reader: Annotated[str | None, typer.Option("--reader", help="The reader, in place of the file's own.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The site's name, before it has joined.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="The site's home folder.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data that were packed before.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check a file against the schema, pack it, and print what will be declared. Rows stay in the home folder.

    Examples:

    flctl site data stroke.parquet --propose --target stroke > stroke.schema.yaml

    flctl site data stroke.parquet --schema stroke.schema.yaml --test 0.2
    """
    from flctl.cli.session import current_registry
    from flctl.errors import ConfigError
    from flctl.federation.schema.draft import propose as drafted
    from flctl.federation.site import packing

    if propose:
        if target is None:
            raise ConfigError("--propose needs the column to predict", hint="Add --target COLUMN.")
        text = drafted(str(file), target, current_registry(), reader)
        output.emit(
            "site data", {"draft": text}, as_json=as_json, render=lambda console: output.write_line(text.rstrip())
        )
        return
    if schema is None:
        raise ConfigError("no schema was named", hint="Add --schema FILE, or make a draft: --propose --target COLUMN.")
    request = packing.PackRequest(str(file), schema, test, rows.value, reader, name, replace)
    packed = packing.pack_home(home, request, current_registry())
    output.emit("site data", packed.to_json(), as_json=as_json, render=lambda console: _render(console, packed))


def _render(console: Console, packed: Packed) -> None:
    for note in packed.notes:
        output.note(note)
    declared = packed.declared
    counts = f"{declared.train:,} training rows, {declared.test:,} test rows"
    console.print(f"will be declared by {declared.site} ({declared.rows}): {counts}", markup=False)
    console.print(f"schema {declared.schema}\nthe rows stay in {packed.folder}", markup=False)

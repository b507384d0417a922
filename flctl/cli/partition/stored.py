"""`flctl partition inspect`, `verify` and `export`: what a stored partition holds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import output
from flctl.cli.complete import complete_partitions
from flctl.cli.output import JsonFlag

__all__ = ["register"]

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A partition.", autocompletion=complete_partitions)]

EXPORT_HELP = """
Write one client's rows to a file, as the client's site would have them.

The file name's ending selects the format: .npz (training, validation and test rows apart), .csv and .parquet (tables),
.txt (text). Values are those of the source; `flctl partition` can read the file.

Examples:

    flctl partition export parts/x --client 3 --out site3.npz

    flctl partition export parts/x --all --format csv --out sites/
"""


class Format(StrEnum):
    """Formats of `--all`."""

    npz = "npz"
    csv = "csv"
    parquet = "parquet"
    txt = "txt"


class RowChoice(StrEnum):
    """Which rows of a client."""

    all = "all"
    train = "train"
    validation = "validation"
    test = "test"


def register(group: typer.Typer) -> None:
    """Adds the subcommands to the group."""
    group.command("inspect")(inspect)
    group.command("verify")(verify)
    group.command("export", help=EXPORT_HELP)(export)


def inspect(
    directory: Directory,
    picture: Annotated[
        list[Path] | None, typer.Option("--picture", metavar="FILE", help="Draw the heatmap to FILE: .png, .svg.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the number of rows by client and label.")
    ] = None,
    duplicates: Annotated[bool, typer.Option(help="Search for exact duplicate rows across clients.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Show rows by client and label, and the skew of a partition."""
    from flctl import atomic
    from flctl.cli.partition import job
    from flctl.partition.store import Partition

    copies = job.Copies(tuple(picture or ()), table)
    copies.check()
    report = job.report_on(Partition.open(directory), duplicates=duplicates)
    # What a process that was killed while it drew the report left behind.
    atomic.remove_abandoned(directory)
    copies.write(report.heatmap)
    output.emit("partition inspect", report.data(), as_json=as_json, render=report.render)


def verify(
    directory: Directory,
    duplicates: Annotated[bool, typer.Option(help="Also count exact duplicate rows.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Check a partition's digests, that no row has two owners, and that every row is owned or left out."""
    from flctl.cli.partition import job
    from flctl.partition.store import Partition

    report = job.check(Partition.open(directory), duplicates=duplicates)
    output.emit("partition verify", report.data(), as_json=as_json, render=report.render)


def export(
    directory: Directory,
    out: Annotated[Path, typer.Option("--out", help="The file to write; with --all, the directory to create.")],
    client: Annotated[
        str | None, typer.Option("--client", metavar="ID", help="Whose rows.", show_default=False)
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Write a file for each client.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="With --all: the format of the files.")] = Format.npz,
    rows: Annotated[RowChoice, typer.Option("--rows", help="Rows to write: all, train or test.")] = RowChoice.all,
    as_json: JsonFlag = False,
) -> None:
    """See EXPORT_HELP."""
    from flctl.cli.partition import job

    counts = job.export(directory, out, client, everyone=everyone, suffix=f".{format_.value}", part=rows.value)
    output.emit(
        "partition export", counts, as_json=as_json, render=lambda console: console.print(f"wrote {out}", markup=False)
    )

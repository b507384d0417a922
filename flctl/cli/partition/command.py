"""`flctl partition SOURCE`, and `flctl partition inspect|verify|export DIR` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from flctl.cli import output
from flctl.cli.flags import option
from flctl.cli.output import JsonFlag
from flctl.cli.partition import stored
from flctl.cli.partition.flags import with_flags

__all__ = ["register"]

MAKE = "SOURCE"
NOUNS = ("inspect", "verify", "export")
OUTPUT, MORE = "Output", "Settings from a file"
CONFIG_HELP = "A YAML file with a `partition:` section; flags win over it."
OVERRIDE_HELP = "Any key of that section, also an option of a plugin's scheme or reader."
HELP = """
Divide a data set among clients, and store it as a partition for training.

SOURCE is a built-in data set (digits, breast_cancer, wine, iris, diabetes,
synthetic), a file (CSV, Parquet, .npz, IDX, text, LEAF JSON ...) or a folder
of images. Several tables of the same columns are read as one. The result is a
new directory with each client's training and test rows, and a report on the
skew between clients.

`flctl partition inspect|verify|export DIR` show a partition, verify it, and
export a client's rows to a file.

Examples:

    flctl partition digits --alpha 0.3 --clients 20 --seed 7 --out parts/x

    flctl partition census.csv --target income --categorical sex,race \\
        --na '?' --by workclass --out parts/census

    flctl partition guest.csv host.csv --by file --target y --out parts/sites

    flctl partition plays.txt --by speaker --window 80 --out parts/plays

    flctl partition --config sample_configs/medicine.yaml

    flctl partition inspect parts/x
"""


class PartitionCommand(TyperCommand):
    """The command for a bare SOURCE. Usage and errors show it under the name of its group."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Returns a context in the place of the group's, so that usage reads `flctl partition`."""
        return super().make_context(parent.info_name, args, parent=parent.parent, **extra)


class PartitionGroup(TyperGroup):
    """A group with a default command: without a subcommand's name first, all words belong to the bare command.

    So `inspect` is never a SOURCE; a file of that name is `./inspect`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the bare command's name before words that name no subcommand."""
        if args and args[0] not in NOUNS:
            self._refuse_misspelt(args[0], completing=ctx.resilient_parsing)
            words = args[: args.index("--")] if "--" in args else args
            asks_help = any(word in ctx.help_option_names for word in words)
            args = [ctx.help_option_names[0]] if asks_help else [MAKE, *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """One page with the bare command's arguments and options and the subcommands."""
        make = self.commands[MAKE]
        page = TyperGroup(
            name=self.name,
            commands={name: self.commands[name] for name in NOUNS},
            params=[*make.params],
            help=make.help,
            rich_markup_mode=self.rich_markup_mode,
            subcommand_metavar=f"| {'|'.join(NOUNS)} DIR",
        )
        page.format_help(ctx, formatter)

    def _refuse_misspelt(self, word: str, *, completing: bool) -> None:
        from flctl.errors import ConfigError, suggest

        close = None if completing or Path(word).exists() else suggest(word, NOUNS)
        if close:
            raise ConfigError(f"'{word}' is neither a subcommand nor an existing source", hint=close)


def register(app: typer.Typer) -> None:
    """Adds `partition` to the application."""
    group = typer.Typer(cls=PartitionGroup, no_args_is_help=True, help="Divide a data set among clients.")
    group.command(MAKE, cls=PartitionCommand, hidden=True, help=HELP)(with_flags(partition))
    stored.register(group)
    app.add_typer(group, name="partition")


def partition(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="A built-in data set, files or a folder.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, option("--out", help="The directory to create. Default parts/NAME.", panel=OUTPUT)
    ] = None,
    picture: Annotated[
        list[Path] | None,
        option("--picture", metavar="FILE", help="Also draw the heatmap: .png, .svg.", panel=OUTPUT),
    ] = None,
    table: Annotated[
        Path | None, option("--csv", metavar="FILE", help="Also write row counts by label.", panel=OUTPUT)
    ] = None,
    report: Annotated[bool, option(help="Store the heatmap and its numbers in the partition.", panel=OUTPUT)] = True,
    duplicates: Annotated[bool, option(help="Search for exact duplicate rows across clients.", panel=OUTPUT)] = True,
    config: Annotated[Path | None, option("--config", metavar="FILE", help=CONFIG_HELP, panel=MORE)] = None,
    override: Annotated[
        list[str] | None, option("-o", "--option", metavar="KEY=VALUE", help=OVERRIDE_HELP, panel=MORE)
    ] = None,
    scheme_option: Annotated[
        list[str] | None,
        option("--scheme-option", metavar="KEY=VALUE", help="Option of the scheme only.", panel=MORE),
    ] = None,
    reader_option: Annotated[
        list[str] | None,
        option("--reader-option", metavar="KEY=VALUE", help="Option of the reader only.", panel=MORE),
    ] = None,
    no_header: Annotated[bool, typer.Option("--no-header", hidden=True, help="Same as --header no.")] = False,
    as_json: JsonFlag = False,
    **flags: Any,
) -> None:
    """See HELP."""
    from flctl.cli.partition import job

    source, more = (sources[0], sources[1:]) if sources else (None, [])
    if source in NOUNS:
        raise job.misplaced(source)
    named = {**flags, "source": source, "more": more or None, "out": None if out is None else str(out)}
    given = job.Given(
        config=config,
        overrides=tuple(override or ()),
        scheme_options=tuple(scheme_option or ()),
        reader_options=tuple(reader_option or ()),
        flags={**named, "header": "no"} if no_header else named,
    )
    copies = job.Copies(tuple(picture or ()), table)
    made = job.run(given, copies, report=report, duplicates=duplicates)
    output.emit("partition", made.data(), as_json=as_json, render=made.render)

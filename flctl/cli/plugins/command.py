"""`flctl plugins`: components and their origins, the package of a new plugin, and checks of plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry
from flctl.errors import command_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]

NEW_HELP = """
Write a plugin package: a working component, its entry point, its README, and tests of its contract.

Examples:

    flctl plugins new flctl-trimmed --kind strategy

    flctl plugins new my-reader --kind dataset --out plugins/my-reader
"""
DOCTOR_HELP = """
Load every plugin and report problems: broken imports, other API versions, hooks, clashes. Exit code 1 if any.

Examples:

    flctl plugins doctor

    flctl plugins doctor trimmed --check

    flctl plugins doctor ./mine.py --check
"""
Kind = Annotated[str | None, typer.Option("--kind", help="Only this kind: strategy, model ... Default: all.")]


def register(app: typer.Typer) -> None:
    """Adds `plugins` to the application."""
    plugins = typer.Typer(no_args_is_help=True, help="List, show and check components and plugins; write a new one.")
    plugins.command("list")(list_plugins)
    plugins.command("show")(show)
    plugins.command("new", help=NEW_HELP)(new)
    plugins.command("doctor", help=DOCTOR_HELP)(doctor)
    app.add_typer(plugins, name="plugins")


def list_plugins(
    kind: Kind = None,
    with_details: Annotated[
        bool, typer.Option("--details", help="Add each component's origin and class, and its whole first sentence.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """List every component by kind, one a line, and every plugin with its version and status."""
    from flctl.cli.plugins import facts

    registry = current_registry()
    data = facts.listing(registry, facts.kinds(kind))
    render = _render_details if with_details else _render_list
    output.emit("plugins list", data, as_json=as_json, render=lambda console: render(console, data))


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a component or plugin.")],
    kind: Annotated[
        str | None, typer.Option("--kind", help="The component's kind, if several kinds share the name.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a component with its description, origin and options, or a plugin with its components."""
    from flctl.cli.plugins import facts

    data = facts.details(current_registry(), name, facts.kinds(kind))
    output.emit("plugins show", data, as_json=as_json, render=lambda console: _render_show(console, data))


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the distribution: flctl-trimmed makes the component trimmed.")
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="strategy, transform, aggregator, engine, dataset, model or partitioner.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The directory to create. Default: NAME.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """See NEW_HELP."""
    from flctl.plugins import new_plugin

    names = new_plugin.names_of(name)
    rendered = new_plugin.render(names, kind)
    new_plugin.refuse_clash(names, kind, current_registry())
    directory = out or Path(name)
    new_plugin.write(directory, rendered)
    following = [
        command_line("pip", "install", "-e", directory),
        command_line("flctl", "plugins", "show", names.component),
    ]
    data = {
        "path": directory.as_posix(),
        "distribution": names.distribution,
        "module": names.module,
        "kind": kind,
        "component": names.component,
        "class": names.class_name,
        "files": list(rendered),
        "next": following,
    }
    output.emit("plugins new", data, as_json=as_json, render=lambda console: _render_new(console, data))


def doctor(
    plugin: Annotated[
        list[str] | None, typer.Argument(metavar="PLUGIN", help="Names of plugins, or .py files. Default: all plugins.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Also run the conformance kit (flctl.testing) on the components. It trains, and takes minutes.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """See DOCTOR_HELP."""
    from flctl.cli.plugins import doctor

    findings = doctor.examine(current_registry(), tuple(plugin or ()), check=check)
    data = {"findings": [finding.data() for finding in findings]}
    output.emit("plugins doctor", data, as_json=as_json, render=lambda console: doctor.render(console, findings))
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)


def _render_list(console: Console, data: Mapping[str, Any]) -> None:
    _print_lines(console, [(row["kind"], row["name"], row["summary"]) for row in data["components"]])
    _render_plugins(console, data)
    console.print("\nMore on one of them: flctl plugins show NAME", markup=False)


def _render_details(console: Console, data: Mapping[str, Any]) -> None:
    for row in data["components"]:
        console.print(f"{row['kind']} {row['name']} ({row['origin']}, {row['class']})", markup=False)
        console.print(f"    {output.plain(row['summary'])}", markup=False)
    _render_plugins(console, data)


def _render_plugins(console: Console, data: Mapping[str, Any]) -> None:
    plugins = [
        (row["plugin"], row["distribution"] or row["origin"], row["version"] or "", row["api"] or "", row["health"])
        for row in data["plugins"]
    ]
    console.print()
    _print_lines(console, [("plugin", "from", "version", "API", "health"), *plugins])


def _print_lines(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Prints each row on one line, which ends at a terminal's right edge; elsewhere it is whole."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(output.plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if console.is_terminal:
            console.print(line, markup=False, no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, markup=False, soft_wrap=True)


def _render_show(console: Console, data: Mapping[str, Any]) -> None:
    for row in data["plugins"]:
        offered = ", ".join(f"{one['kind']} {one['name']}" for one in row["components"]) or "no components"
        console.print(f"plugin {row['plugin']} ({row['origin']}), API {row['api'] or 'not stated'}", markup=False)
        console.print(f"{offered}\n{row['health']}", markup=False)
    for component in data["components"]:
        console.print(f"{component['kind']} {component['name']} ({component['origin']})\n", markup=False)
        console.print(component["doc"], markup=False)
        rows = [
            (o["name"], o["allowed"] or o["type"], "required" if o["required"] else o["default"], o["description"])
            for o in component["options"]
        ]
        if rows:
            output.table(console, ("option", "type", "default", "meaning"), rows, left=4)
        else:
            console.print("\nIt has no options.\n")


def _render_new(console: Console, data: Mapping[str, Any]) -> None:
    for path in data["files"]:
        console.print(f"{data['path']}/{path}", markup=False)
    for command in data["next"]:
        console.print(f"next: {command}", markup=False, soft_wrap=True)

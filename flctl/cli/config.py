"""`flctl config`: effective values with their origins, the schema of a file, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.config.load import Loaded, ValueOrigin

__all__ = ["register"]

Override = Annotated[
    list[str] | None, typer.Option("-o", "--override", metavar="KEY=VALUE", help="Any config key; may be repeated.")
]

SHOW_HELP = """
Print the effective configuration, with the origin of each value as a comment.

Examples:

    flctl config show

    flctl config show sample_configs/mnist.yaml -o strategy=fedprox > mine.yaml
"""
SCHEMA_HELP = """
Print the JSON Schema of a configuration file, with the options of all installed components.

Example: flctl config schema > flctl.schema.json
"""
VALIDATE_HELP = """
Check a configuration file, and report all problems at once, each with its line and column. Exit code 2 if any.

Example: flctl config validate sample_configs/mnist.yaml
"""


def register(app: typer.Typer) -> None:
    """Adds `config` to the application."""
    config = typer.Typer(
        no_args_is_help=True, help="Show the effective configuration or the JSON Schema; check a file."
    )
    config.command("show", help=SHOW_HELP)(show)
    config.command("schema", help=SCHEMA_HELP)(schema)
    config.command("validate", help=VALIDATE_HELP)(validate)
    app.add_typer(config, name="config")


def show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A YAML file. Default: no file.")] = None,
    override: Override = None,
    as_json: JsonFlag = False,
) -> None:
    """See SHOW_HELP."""
    import os

    from flctl.config.config import digest
    from flctl.config.load import load

    loaded = load(current_registry(), file=file, overrides=tuple(override or ()), environ=os.environ)
    data = {"digest": digest(loaded.config), "values": _values(loaded)}
    output.emit("config show", data, as_json=as_json, render=lambda console: _print_yaml(console, _annotated(loaded)))


def schema(as_json: JsonFlag = False) -> None:
    """See SCHEMA_HELP."""
    import json

    from flctl.config import json_schema

    found = json_schema.schema(current_registry())
    output.emit(
        "config schema",
        {"schema": found},
        as_json=as_json,
        render=lambda _: output.write_line(json.dumps(found, indent=2)),
    )


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file.")],
    override: Override = None,
    as_json: JsonFlag = False,
) -> None:
    """See VALIDATE_HELP."""
    from flctl.config.config import digest
    from flctl.config.load import load

    loaded = load(current_registry(), file=file, overrides=tuple(override or ()))
    data = {"file": str(file), "valid": True, "digest": digest(loaded.config)}
    output.emit(
        "config validate", data, as_json=as_json, render=lambda console: console.print(f"{file}: valid", markup=False)
    )


def _values(loaded: Loaded) -> dict[str, Any]:
    from flctl.config.config import effective

    tree = effective(loaded.config)
    return {
        key: {"value": _at(tree, key), "source": origin.source, "where": origin.where}
        for key, origin in loaded.origins.items()
    }


def _at(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; names may hold dots themselves, so the longest name that fits goes first."""
    if key in tree:
        return tree[key]
    fitting = [name for name in tree if key.startswith(f"{name}.")]
    longest = max(fitting, key=len)
    return _at(tree[longest], key[len(longest) + 1 :])


def _annotated(loaded: Loaded) -> str:
    from flctl.config import yaml_writer
    from flctl.config.config import effective

    return yaml_writer.write(effective(loaded.config), lambda path: _comment(loaded.origins[".".join(path)]))


def _comment(origin: ValueOrigin) -> str:
    if origin.source == "strategy":
        return f"strategy {origin.where}"
    return origin.where or origin.source


def _print_yaml(console: Console, text: str) -> None:
    if not console.is_terminal:
        output.write_line(text.removesuffix("\n"))
        return
    from rich.syntax import Syntax

    console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))

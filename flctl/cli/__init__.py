"""The `flctl` command: one file per subcommand, and the one place that turns exceptions into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from flctl.errors import FlctlError, StorageError

__all__ = ["build", "main"]

INTERRUPTED = 130


def build(disable: Sequence[str] = ()) -> typer.Typer:
    """The application with the subcommands of every plugin that loads; broken plugins are warned about."""
    from flctl.cli import output
    from flctl.cli.session import use_registry
    from flctl.registry import Registry

    app = typer.Typer(
        name="flctl",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Federated learning from the command line: partition, train, evaluate.",
    )
    registry = Registry(disable=disable)
    use_registry(registry)
    registry.register_commands(app)
    for plugin in registry.broken:
        output.warn(f"plugin '{plugin.name}' ({plugin.origin}) did not load: {plugin.reason}")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with the exit code of conventions: 0, 1..6, 130, 143."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs the command line in this process and returns the exit code."""
    from flctl.cli import output

    as_json = "--json" in arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        return _invoke(arguments)
    except FlctlError as error:
        output.fail(error, command, as_json)
        return error.exit_code
    except OSError as error:
        output.fail(_storage(error), command, as_json)
        return StorageError.exit_code
    except KeyboardInterrupt:
        output.note("interrupted")
        return INTERRUPTED


def _invoke(arguments: list[str]) -> int:
    from flctl.cli.arguments import take_disabled

    disabled, rest = take_disabled(arguments)
    return int(build(disabled)(rest, prog_name="flctl", standalone_mode=False) or 0)


def _storage(error: OSError) -> StorageError:
    name = f" ({error.filename})" if error.filename else ""
    return StorageError(f"{error.strerror or error}{name}", hint="Check the path, its permissions and the free space.")

"""The `flctl` command: one file per subcommand, and the one place that turns exceptions into exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flctl.results import reserved_stdout

if TYPE_CHECKING:
    from flctl.plugins.registry import Registry

__all__ = ["build", "main", "run"]

COMPLETION = "_FLCTL_COMPLETE"
DEBUG = "FLCTL_DEBUG"
INTERRUPTED = 130
ORDER = (
    *("partition", "train", "eval", "predict", "export", "plot", "runs"),
    *("federation", "site", "demo", "config", "plugins", "doctor", "bench"),
)


class _Commands(TyperGroup):
    """Help group: built-in subcommands in the order of their first use, then those of plugins."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Command names in the order in which `--help` lists them."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def build(disable: Sequence[str] = ()) -> typer.Typer:
    """The application with the subcommands of every plugin that loads; broken plugins are warned about.

    Raises PluginError for a name in `disable` that no plugin has.
    """
    from flctl.cli import output
    from flctl.cli.session import use_registry
    from flctl.plugins.registry import Registry

    app = typer.Typer(
        name="flctl",
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Federated learning from the command line: partition, train, evaluate.",
    )
    app.callback()(_root)
    with reserved_stdout():
        registry = Registry(disable=disable)
        _check_disabled(disable)
        use_registry(registry)
        registry.register_commands(app)
    if COMPLETION not in os.environ:
        _warn_about_broken(registry, output)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code: 0, 1 to 6, 130 or 143."""
    try:
        signal.signal(signal.SIGTERM, _terminate)
        _open_streams()
        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:  # the second one, while the first was reported
        code = INTERRUPTED
    if code == INTERRUPTED:
        # A third Ctrl-C would print the traceback of whatever the interpreter does at its exit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _open_streams() -> None:
    """Makes standard output and standard error usable: closed ones discard, and letters that an encoding lacks are
    escaped, so that a command that has done its work does not fail when it prints the result."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as in `flctl ... >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str]) -> int:
    """Runs the command line in this process and returns the exit code. Errors are printed, not raised."""
    words: list[str] = []
    try:
        code = _invoke(arguments, words)
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        return _hang_up()
    except BaseException as error:
        return _tell(error, arguments, " ".join(words))
    return code


def _invoke(arguments: list[str], words: list[str]) -> int:
    """Runs the command; `words` receives its name ("config show") for the JSON envelope of an error."""
    from flctl.cli.arguments import refuse_empty_paths, take_disabled

    disabled, rest = take_disabled(arguments)
    command = typer.main.get_command(_reduced(build(disabled), rest))
    if COMPLETION in os.environ:
        command.main(args=rest, prog_name="flctl", standalone_mode=False)
        return 0
    words += _command_words(command, rest)
    refuse_empty_paths(rest)
    _reserve_stdout(command)
    try:
        with command.make_context("flctl", rest or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except Exception as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        print(error.format_message(), end="")  # type: ignore[attr-defined]  # noqa: T201
    return 0


def _reserve_stdout(command: Any) -> None:
    """Makes built-in commands reserve standard output for their results while they run."""
    for inner in getattr(command, "commands", {}).values():
        _reserve_stdout(inner)
    built_in = str(getattr(command.callback, "__module__", "")).startswith("flctl.")
    if built_in and not hasattr(command, "commands"):
        command.callback = reserved_stdout()(command.callback)


def _reduced(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """The application with the one command that is called, if the first of the arguments names one: reading the
    parameters of the others takes most of the time in which a command starts."""
    name = arguments[0] if arguments else ""
    commands = [one for one in app.registered_commands if _name_of(one) == name]
    groups = [one for one in app.registered_groups if one.name == name]
    if (commands or groups) and COMPLETION not in os.environ:
        app.registered_commands, app.registered_groups = commands, groups
    return app


def _name_of(command: Any) -> str:
    return command.name or typer.main.get_command_name(command.callback.__name__)


def _command_words(command: Any, arguments: Sequence[str]) -> list[str]:
    """The words of `arguments` that name a command and its subcommand."""
    words: list[str] = []
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None and not word.startswith("-"):
            break
        if inner is not None:
            words, command = [*words, word], inner
    return words


def _tell(error: BaseException, arguments: Sequence[str], command: str) -> int:
    from flctl.cli import output
    from flctl.cli.failures import failure

    reported = failure(error, command)
    if os.environ.get(DEBUG) == "1":
        _print_traceback(error)
    try:
        output.fail(reported, command, as_json="--json" in _before_dashes(arguments))
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        _hang_up()
    return reported.exit_code


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _print_traceback(error: BaseException) -> None:
    import traceback

    # Without locals: they can hold patients' rows or keys.
    traceback.print_exception(error, file=sys.stderr)


def _hang_up() -> int:
    """Discards further output after a broken pipe, including Python's flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    from flctl.cli.failures import Terminated

    raise Terminated


def _version(asked: bool) -> None:  # noqa: FBT001
    from flctl.version import __version__

    if asked:
        typer.echo(f"flctl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True),
    ] = False,
    disable_plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--disable-plugin",
            metavar="NAME",
            help="Disable this plugin; valid anywhere on the command line, may be repeated.",
        ),
    ] = None,
) -> None:
    """Federated learning from the command line: partition, train, evaluate."""


def _check_disabled(names: Sequence[str]) -> None:
    from flctl.errors import PluginError, suggest
    from flctl.plugins.registry import plugin_names

    known = plugin_names() if names else []
    for name in names:
        if name not in known:
            raise PluginError(
                f"there is no plugin '{name}' to disable",
                hint=suggest(name, known) or f"Installed: {', '.join(known) or 'none'}.",
            )


def _warn_about_broken(registry: Registry, output: Any) -> None:
    for plugin in registry.broken:
        output.warn(f"plugin '{plugin.name}' ({plugin.origin}) did not load: {plugin.reason}")

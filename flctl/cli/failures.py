"""Errors of a command, of every kind, with a message, a hint and an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from flctl.errors import FlctlError, StorageError, closest, plain_words

__all__ = ["BugError", "InterruptionError", "Terminated", "TerminationError", "UsageError", "failure"]


class UsageError(FlctlError):
    """A command line that cannot be parsed."""

    exit_code = 2


class InterruptionError(FlctlError):
    """Ctrl-C."""

    exit_code = 130


class TerminationError(FlctlError):
    """SIGTERM."""

    exit_code = 143


class BugError(FlctlError):
    """Reports an unexpected exception."""


class Terminated(BaseException):
    """Raised in the main thread by SIGTERM; like KeyboardInterrupt, no `except Exception` stops it."""


def failure(error: BaseException, command: str = "") -> FlctlError:
    """Returns the FlctlError to report for any exception that `command` ("config show") raised."""
    if isinstance(error, FlctlError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return _storage(error)
    # Typer's own usage errors: Typer vendors Click from 0.26 on, so they are known by what they can do.
    if callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code"):
        return _usage(error, command)
    return next((reported for kind, reported in _foreseen() if isinstance(error, kind)), None) or _bug(error)


def _foreseen() -> Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], FlctlError]]:
    return [
        (KeyboardInterrupt, InterruptionError("interrupted")),
        (Terminated, TerminationError("terminated")),
        ((typer.Abort, EOFError), FlctlError("aborted: the question was not answered")),
        (MemoryError, FlctlError("out of memory", hint="Use fewer workers, a smaller batch or a smaller model.")),
    ]


def _bug(error: BaseException) -> BugError:
    hint = "This is a bug in flctl or in a plugin; run it again with FLCTL_DEBUG=1 to see where."
    first = str(error).partition("\n")[0]
    return BugError(f"{type(error).__name__}: {first}".rstrip(": "), hint=hint)


def _storage(error: OSError) -> StorageError:
    name = f" ({error.filename})" if error.filename else ""
    return StorageError(f"{error.strerror or error}{name}", hint="Check the path, its permissions and the free space.")


def _usage(error: Any, called: str) -> UsageError:
    context = getattr(error, "ctx", None)
    message = plain_words(str(error.format_message()))
    option, command = getattr(error, "option_name", None), re.match(r"No such command '(.+?)'", message)
    if command:
        message = f"no such command '{command[1]}'"
        close = _close(command[1], _commands(context), CLOSE_COMMAND)
    elif option and type(error).__name__ == "NoSuchOption":
        message, close = f"no such option {option}", _close(option, _options(context))
    else:
        close = None
    path = getattr(context, "command_path", None) or f"flctl {called}".rstrip()
    return UsageError(message, hint=close or f"`{path} --help` shows how to call it.")


CLOSE_COMMAND = 0.7
"""Least similarity of a command that is suggested: at 0.6, `report` would suggest `plot`."""


def _commands(context: Any) -> Iterable[str]:
    return getattr(getattr(context, "command", None), "commands", {})


def _options(context: Any) -> Iterable[str]:
    parameters = getattr(getattr(context, "command", None), "params", [])
    return [name for parameter in parameters for name in parameter.opts if name.startswith("--")]


def _close(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    bare = {name.lstrip("-"): name for name in sorted(known)}
    close = closest(word.lstrip("-"), bare, likeness)
    return f"Did you mean {bare[close]}?" if close else None

"""Commands whose flags come from a table, where a signature would be longer than a page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import typer

__all__ = ["option", "with_parameters"]


def option(*names: str, help: str, panel: str, **extra: Any) -> Any:  # noqa: A002
    """Returns an option on a panel of the help. Its default is part of the help text, not shown by Typer."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **extra)


def with_parameters(command: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> Callable[..., Any]:
    """Returns `command` with these keyword parameters, after its first one, instead of its `**` parameter."""

    def with_signature(*arguments: Any, **values: Any) -> Any:
        return command(*arguments, **values)

    signature = inspect.signature(command, eval_str=True)
    first, *own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    # The order of parameters is the order of panels in the help.
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (first, *parameters, *own)]
    with_signature.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    with_signature.__annotations__ = {p.name: p.annotation for p in keyword}
    with_signature.__doc__ = command.__doc__
    return with_signature

"""Output of the subcommands, as flctl's own commands print theirs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["emit", "envelope"]


def emit(command: str, data: Mapping[str, Any], render: Callable[[Console], None], *, as_json: bool) -> None:
    """Prints the JSON envelope of a result with `--json`, else the text of `render`."""
    from rich.console import Console

    if as_json:
        typer.echo(envelope(command, data))
    else:
        render(Console(soft_wrap=True, highlight=False))


def envelope(command: str, data: Mapping[str, Any]) -> str:
    """flctl's JSON envelope of a result; an infinite epsilon is null."""
    return json.dumps({"flctl": 1, "command": command, "ok": True, "data": _finite(data)}, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

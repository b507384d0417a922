"""Output of every subcommand: data on stdout, everything else on stderr, one JSON envelope for results and errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flctl.results import results

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.errors import FlctlError

__all__ = [
    "ENVELOPE",
    "JsonFlag",
    "emit",
    "envelope",
    "fail",
    "note",
    "parse_pairs",
    "plain",
    "stderr",
    "stdout",
    "table",
    "warn",
    "write_line",
]

ENVELOPE = 1
GAP = 3
"""Width between two columns of a table."""
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON envelope on stdout.", rich_help_panel="Output")]


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(file=results(), soft_wrap=not results().isatty(), highlight=False)


def stderr() -> Console:
    """The console for progress, notes and errors."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=not sys.stderr.isatty(), highlight=False)


def envelope(command: str, **body: Any) -> str:
    """One line of JSON: {"flctl": 1, "command": ..., "ok": ..., "data" or "error": ...}; NaN becomes null."""
    return json.dumps({"flctl": ENVELOPE, "command": command, **_plain(body)}, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def emit(command: str, data: Mapping[str, Any], render: Callable[[Console], None], *, as_json: bool) -> None:
    """Prints a result: the envelope with `--json`, else what `render` writes on stdout."""
    if as_json:
        write_line(envelope(command, ok=True, data=data))
    else:
        render(stdout())


def write_line(text: str) -> None:
    """Writes a line to standard output as it is."""
    print(text, file=results())


def fail(error: FlctlError, command: str, *, as_json: bool) -> None:
    """Prints an error on stderr, and as an envelope on stdout with `--json`."""
    if as_json:
        body = {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        write_line(envelope(command, ok=False, error=body))
        return
    console = stderr()
    console.print("[bold red]error:[/] ", end="")
    console.print(plain(error.message), markup=False)
    if error.hint:
        console.print("[bold]hint:[/] ", end="")
        console.print(plain(error.hint), markup=False)


def note(message: str) -> None:
    """Prints a line on stderr."""
    stderr().print(plain(message), markup=False)


def warn(message: str) -> None:
    """Prints a warning on stderr."""
    console = stderr()
    console.print("[bold yellow]warning:[/] ", end="")
    console.print(plain(message), markup=False)


def table(
    console: Console, columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str | None = None, left: int = 1
) -> None:
    """A plain table; all columns but the first `left` are right-aligned.

    No number breaks: columns that do not fit beside each other follow below, with the first `left` columns again. Cells
    and headings may come from data: neither markup nor control characters of theirs reach the terminal.
    """
    heads, cells = [plain(head) for head in columns], [[plain(str(cell)) for cell in row] for row in rows]
    for part in _side_by_side(console.width, heads, cells, left):
        shown = [*range(left), *part]
        _print_table(console, [heads[i] for i in shown], [[row[i] for i in shown] for row in cells], left, title)
        title = None


def _side_by_side(
    width: int, heads: Sequence[str], cells: Sequence[Sequence[str]], left: int
) -> Iterator[Sequence[int]]:
    """Yields the columns after the first `left` in groups that fit the width; a single column may exceed it."""
    from rich.cells import cell_len

    def narrowest(column: int) -> int:
        words = [*heads[column].split(), *(row[column] for row in cells)]
        return max((cell_len(word) for word in words), default=0) + GAP

    free = width - 1 - sum(min(narrowest(column), width // 2) for column in range(left))
    group: list[int] = []
    for column in range(left, len(heads)):
        if group and sum(map(narrowest, [*group, column])) > free:
            yield group
            group = []
        group.append(column)
    yield group


def _print_table(
    console: Console, heads: Sequence[str], cells: Sequence[Sequence[str]], left: int, title: str | None
) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    grid = Table(title=title and _inert(title), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    columns = [[head, *(row[index] for row in cells)] for index, head in enumerate(heads)]
    crowded = sum(max(map(cell_len, column)) + GAP for column in columns) > console.width
    for index, (head, *column) in enumerate(columns):
        # Headings break between words if they must; the words of cells, which numbers are, never do.
        least = max(map(cell_len, [*head.split(), *column]), default=1)
        side: Literal["left", "right"] = "left" if index < left else "right"
        width = least if crowded and index >= left else None
        grid.add_column(_inert(head), justify=side, overflow="fold", width=width)
    for row in cells:
        grid.add_row(*map(_inert, row))
    console.print(grid)


def _inert(text: str) -> str:
    from rich.markup import escape

    return escape(plain(text))


def plain(text: str) -> str:
    """The text without control characters but line ends: names in it may come from data."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """`["a.b=1"]` -> {"a.b": "1"}. Raises ConfigError for an item without `=`."""
    from flctl.errors import ConfigError

    result: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"-o {pair} is not KEY=VALUE", hint="Write for example -o local.lr=0.05.")
        result[key.strip()] = value
    return result

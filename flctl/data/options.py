"""The option types that readers share: lists of columns, one column, a task, a size in pixels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from flctl.component import Options

__all__ = ["Column", "Columns", "Header", "Pixels", "Sources", "TabularOptions", "Task", "Tokens"]

Task = Literal["auto", "classification", "binary", "regression"]


def _split(value: Any) -> Any:
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return tuple(word for word in (str(item).strip() for item in items) if word)


def _sources(value: Any) -> Any:
    # A comma may be part of a file's name.
    return (value,) if isinstance(value, str) else value


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _header(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _pixels(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
            raise ValueError("expected HEIGHTxWIDTH, for example 32x32")
        return (int(parts[0]), int(parts[-1]))
    return value


def _positive(value: tuple[int, int]) -> tuple[int, int]:
    if min(value) < 1:
        raise ValueError("expected a height and a width of at least 1")
    return value


Columns = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Column names or 0-based indices: `a,b` or a list."""
Tokens = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Words: `NA,?` or a list."""
Column = Annotated[str, BeforeValidator(_word)]
"""One column, by name or 0-based index."""
Header = Annotated[Literal["auto", "yes", "no"], BeforeValidator(_header)]
Pixels = Annotated[tuple[int, int], BeforeValidator(_pixels), AfterValidator(_positive)]
"""Height and width: `28x28`, `28` or a pair."""


Sources = Annotated[tuple[str, ...], BeforeValidator(_sources)]
"""Files, folders or globs: one, or a list."""


class TabularOptions(Options):
    """Options of every table reader. Columns are given by name or by 0-based index.

    `target`: the column to predict. `features`: the columns to learn from (default: all that are not the target, not
    in `by` and not in `drop`). `categorical`: features to one-hot encode. `by`: columns to keep as groups; `file` and
    `folder` are always there. `task`: the meaning of the target; `auto` looks at its values. `more`: further sources
    of the same columns. `test`: sources of test rows. `splits`: `none` ignores train, test and val in file names.
    """

    target: Column | None = None
    features: Columns = ()
    drop: Columns = ()
    categorical: Columns = ()
    by: Columns = ()
    task: Task = "auto"
    more: Sources = ()
    test: Sources = ()
    splits: Literal["auto", "none"] = "auto"

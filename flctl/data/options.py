"""The option types that readers share: lists of columns, one column, a task, a size in pixels."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from flctl.component import PATH, Options
from flctl.data.dates import PARTS

__all__ = [
    "Column",
    "Columns",
    "Dates",
    "Header",
    "Impute",
    "Pixels",
    "Sources",
    "TabularOptions",
    "Task",
    "Tokens",
    "as_option",
]

Task = Literal["auto", "classification", "binary", "regression"]


def _split(value: Any) -> Any:
    if value is None:
        return ()
    items = _cells(value) if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return tuple(word for word in (str(item).strip() for item in items) if word)


def _cells(text: str) -> list[str]:
    """The words of a list `a,b`; one with a comma is quoted, as in a line of CSV."""
    return next(csv.reader([text.replace("\n", " ")], skipinitialspace=True), [])


def as_option(words: Iterable[str]) -> str:
    """Words as a shell takes them for an option that is a list: words with a comma are quoted twice.

    >>> print(as_option(["job", "city, county"]))
    'job,"city, county"'
    """
    return shlex.quote(",".join(f'"{word}"' if "," in word else word for word in words))


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


def _dates(value: Any) -> Any:
    """`when:month,hour` and `when:month+hour,born` as ("when:month+hour", "born")."""
    words: list[str] = []
    for word in _split(value):
        parts = set(word.replace("+", " ").split())
        if words and ":" in words[-1] and ":" not in word and parts <= PARTS.keys():
            words[-1] += f"+{word}"
        else:
            words.append(word)
    return tuple(words)


Columns = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Column names or 0-based indices: `a,b` or a list; a name with a comma is quoted, `"a, b",c`."""
Tokens = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Words: `NA,?` or a list; a word with a comma is quoted, `"1,5"`."""
Column = Annotated[str, BeforeValidator(_word)]
"""One column, by name or 0-based index."""
Header = Annotated[Literal["auto", "yes", "no"], BeforeValidator(_header)]
Pixels = Annotated[tuple[int, int], BeforeValidator(_pixels), AfterValidator(_positive)]
"""Height and width: `28x28`, `28` or a pair."""


Dates = Annotated[tuple[str, ...], BeforeValidator(_dates)]
"""Columns of dates, each with the parts that it becomes: `when:month+hour,born`."""
Impute = Literal["mean", "median", "indicator"]
Sources = Annotated[tuple[str, ...], BeforeValidator(_sources)]
"""Files, folders or globs: one, or a list."""


class TabularOptions(Options):
    """Options of every table reader. Columns are given by name or by 0-based index.

    `target`: the column to predict. `features`: the columns to learn from (default: all that are not the target, not
    in `by` and not in `drop`). `categorical`: features to one-hot encode. `by`: columns to keep as groups; `file` and
    `folder` are always there. `task`: the meaning of the target; `auto` looks at its values. `more`: further sources
    of the same columns. `test`: sources of test rows. `splits`: `none` ignores train, test and val in file names.
    `date`: columns of dates, with the parts that they become. `date_format`: their format, as `strptime` takes it.
    `impute`: what replaces a missing number, the mean or median of training rows; `indicator` adds a feature that is 1
    if the number is missing.
    """

    target: Column | None = None
    features: Columns = ()
    drop: Columns = ()
    categorical: Columns = ()
    by: Columns = ()
    task: Task = "auto"
    more: Sources = Field((), json_schema_extra=PATH)
    test: Sources = Field((), json_schema_extra=PATH)
    splits: Literal["auto", "none"] = "auto"
    date: Dates = ()
    date_format: str | None = None
    impute: Impute | None = None

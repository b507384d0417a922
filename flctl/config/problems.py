"""Problems of a configuration: places in a source, problems at those places, and all of them in one error."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from flctl.errors import ConfigError

__all__ = ["Place", "Problem", "Source", "refuse"]

EXCERPT = 70
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Source:
    """Text that settings come from. `label` names it ("x.yaml", "-o local.lr"); a file's places have line:column.

    `shown` precedes a problem in a source without lines ("-o local.lr=abc").
    """

    label: str
    text: str = ""
    is_file: bool = False
    shown: str = ""

    def place(self, line: int = 0, column: int = 0, width: int = 1) -> Place:
        """Returns the place at a line and column (both from 0), `width` characters wide."""
        return Place(self, line, column, max(1, width))


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a source: line and column (from 0), and the number of characters."""

    source: Source
    line: int = 0
    column: int = 0
    width: int = 1

    @property
    def where(self) -> str:
        """ "x.yaml:12:5" for a file (from 1), else the source's label."""
        return f"{self.source.label}:{self.line + 1}:{self.column + 1}" if self.source.is_file else self.source.label

    def excerpt(self) -> str:
        """Returns the line with a caret under the place, two lines of text; empty for a source without lines."""
        lines = LINE_BREAK.split(self.source.text) if self.source.is_file else []
        if self.line >= len(lines):
            return ""
        start, text = _window(lines[self.line], self.column)
        before = _cells(text[: self.column - start])
        marked = max(1, _cells(text[self.column - start :][: self.width]))
        number = str(self.line + 1)
        return f"  {number} | {_printable(text)}\n  {' ' * len(number)} | {' ' * before}{'^' * marked}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration: a message, its place, and a hint."""

    message: str
    place: Place | None = None
    hint: str | None = None

    def __str__(self) -> str:
        sentence = self.message + (f". {self.hint}" if self.hint else "")
        if self.place is None:
            return sentence
        shown = self.place.source.shown or self.place.where
        return "\n".join(filter(None, [f"{shown}: {sentence}", self.place.excerpt()]))


def refuse(problems: Sequence[Problem], hint: str | None = None) -> ConfigError:
    """Returns one error that lists all problems, those of a file in the order of its lines."""
    ordered = sorted(dict.fromkeys(problems), key=_order)
    text = "\n".join(str(problem) for problem in ordered)
    return ConfigError(text if len(ordered) == 1 else f"{len(ordered)} problems\n{text}", hint=hint)


def _order(problem: Problem) -> tuple[bool, int, int]:
    place = problem.place
    return (False, -1, -1) if place is None else (not place.source.is_file, place.line, place.column)


def _window(line: str, column: int) -> tuple[int, str]:
    """Returns the part of a line around a column, and its start; `…` marks where the line was cut."""
    start = max(0, min(column - EXCERPT // 2, len(line) - EXCERPT))
    text = line[start : start + EXCERPT]
    text = f"…{text[1:]}" if start else text
    return start, f"{text[:-1]}…" if start + EXCERPT < len(line) else text


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)

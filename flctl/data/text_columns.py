"""Text among the columns that must be numbers: all of them at once, with the options that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flctl.data.columns import CellError, as_numbers, is_number
from flctl.data.dates import looks_like_date
from flctl.data.extras import optional
from flctl.data.numerals import marks_of
from flctl.data.options import as_option

__all__ = ["TextColumns"]

MANY = 50
"""Distinct values from which text is taken for an identifier, if they are also half of its rows."""
FEW, SEVERAL = 3, 5
"""Words in a column of numbers: at most, and distinct numbers beside words that may mean something."""
USUAL_MISSING = frozenset("? - -- . * na n/a nan null none nil missing unknown unk #n/a undefined".split())  # noqa: SIM905
"""Words that mean a missing value, in lower case."""
NOTHING = "''"
_NUMBER = r"^[-+\d.,eE%\s€$£¥₹'’]*$"


class TextColumns:
    """Collects, batch by batch, which numeric columns hold text, and distinct values of these."""

    def __init__(self, columns: Sequence[int], missing: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._missing = missing
        self._text: set[int] = set()
        self._values: dict[int, set[str]] = {column: set() for column in columns}
        self._odd: dict[int, set[str]] = {column: set() for column in columns}
        self._rows = 0

    def add(self, arrays: Mapping[int, Any]) -> None:
        """Takes a batch of columns as they are written."""
        compute = optional("pyarrow.compute", "pyarrow", "tables")
        for column in self.columns:
            found = compute.unique(arrays[column])
            try:
                as_numbers(arrays[column], self._missing)
            except CellError:
                self._text.add(column)
                # Beyond MANY values, words among numbers are still looked for: they may come late.
                words = compute.filter(found, compute.invert(compute.match_substring_regex(found, _NUMBER)))
                self._odd[column].update(map(str, words.slice(0, MANY).to_pylist()))
            if len(self._values[column]) < MANY:
                self._values[column].update(map(str, found.to_pylist()))
        self._rows += len(arrays[self.columns[0]]) if self.columns else 0

    @property
    def found(self) -> list[int]:
        """The columns with text, in order."""
        return sorted(self._text)

    def options(self, names: Sequence[str]) -> str:
        """`--categorical a,b --drop c`, quoted for a shell: identifiers are dropped, other text is a category, and
        numbers that people wrote, or that have words between them, keep being numbers."""
        dates = [c for c in self.found if looks_like_date([word for word in self._values[c] if word != "None"])]
        numbers = [c for c in self.found if c not in dates and self._are_numbers(c)]
        mark = self._mark(numbers)
        left = [c for c in self.found if c not in (*dates, *numbers)]
        many = [c for c in left if len(self._values[c]) >= min(MANY, max(2, self._rows // 2 + 1))]
        words = sorted({word for c in numbers for word in self._words(c)})
        parts = {
            "--date": as_option(names[c] for c in dates),
            "--decimal": mark,
            "--na": as_option(words),
            "--categorical": as_option(names[c] for c in left if c not in many),
            "--drop": as_option(names[c] for c in many),
        }
        return " ".join(f"{flag} {value}" for flag, value in parts.items() if value not in ("", NOTHING))

    def _are_numbers(self, column: int) -> bool:
        values, words = self._cells(column), self._words(column)
        usual = all(word.lower() in USUAL_MISSING for word in words)
        written = [marks for word in values if (marks := marks_of(word))]
        few = len(words) <= FEW and (usual or len(written) >= SEVERAL)
        return few and len(written) >= 2 and bool(frozenset[str].intersection(*written))

    def _mark(self, columns: Sequence[int]) -> str:
        """Returns the decimal mark of columns of numbers, "" if Python reads them as they are."""
        cells = [word for c in columns for word in self._cells(c) if (marks_of(word)) and not is_number(word)]
        if not cells:
            return ""
        return (
            "," if all("," in marks_of(cell) for cell in cells) and any("." not in marks_of(c) for c in cells) else "."
        )

    def _cells(self, column: int) -> list[str]:
        return [word.strip() for word in self._values[column] if word.strip() not in ("None", "", *self._missing)]

    def _words(self, column: int) -> list[str]:
        """Cells of a column that are no numbers."""
        found = {word.strip() for word in (*self._cells(column), *self._odd[column])}
        return sorted(word for word in found - {"None", "", *self._missing} if not marks_of(word))

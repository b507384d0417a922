"""Text among the columns that must be numbers: all of them at once, with the options that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flctl.data.columns import CellError, as_numbers
from flctl.data.dates import looks_like_date
from flctl.data.extras import optional
from flctl.data.options import as_option

__all__ = ["TextColumns"]

MANY = 50
"""Distinct values from which text is taken for an identifier, if they are also half of its rows."""


class TextColumns:
    """Collects, batch by batch, which numeric columns hold text and how many distinct values they have."""

    def __init__(self, columns: Sequence[int], missing: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._missing = missing
        self._text: set[int] = set()
        self._values: dict[int, set[str]] = {column: set() for column in columns}
        self._rows = 0

    def add(self, arrays: Mapping[int, Any]) -> None:
        """Takes a batch of columns as they are written."""
        compute = optional("pyarrow.compute", "pyarrow", "tables")
        for column in self.columns:
            try:
                as_numbers(arrays[column], self._missing)
            except CellError:
                self._text.add(column)
            if len(self._values[column]) < MANY:
                self._values[column].update(map(str, compute.unique(arrays[column]).to_pylist()))
        self._rows += len(arrays[self.columns[0]]) if self.columns else 0

    @property
    def found(self) -> list[int]:
        """The columns with text, in order."""
        return sorted(self._text)

    def options(self, names: Sequence[str]) -> str:
        """`--categorical a,b --drop c`, quoted for a shell: identifiers are dropped, other text is a category."""
        many = [c for c in self.found if len(self._values[c]) >= min(MANY, max(2, self._rows // 2 + 1))]
        dates = [c for c in self.found if looks_like_date([word for word in self._values[c] if word != "None"])]
        categories = [c for c in self.found if c not in (*many, *dates)]
        parts = {"--date": dates, "--categorical": categories, "--drop": [c for c in many if c not in dates]}
        flags = [f"{flag} {as_option(names[c] for c in part)}" for flag, part in parts.items() if part]
        return " ".join(flags)

"""First draft of a schema from one site's file: what people edit and agree on, not what they send around unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flctl.component import Catalogue
from flctl.data.columns import is_number
from flctl.data.schema import ColumnPlan, find_column
from flctl.data.sources import find_reader
from flctl.data.table import TableReader
from flctl.errors import ConfigError, DataError, counted
from flctl.federation.schema.schema import FORMAT, OTHER

__all__ = ["propose"]

FLOOR = 10
"""Rows that a level needs to be named in a draft: rarer ones could point to a person."""
MOST_LEVELS = 50
HEADER = """\
# Draft from one site's rows. Read it before it leaves the site: level names, means and deviations come from the rows.
# Levels with fewer than {floor} rows are left out. Agree on units, ranges and constants with the other sites.
"""


@dataclass
class _Words:
    """Counts the distinct words of one column, up to a limit, and the sums of its numbers. An accumulator."""

    counts: Counter[str] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)
    missing: int = 0
    text: bool = False

    def add(self, words: Sequence[Any]) -> None:
        for word in words:
            if word is None or not str(word).strip():
                self.missing += 1
                continue
            text = str(word).strip()
            if len(self.counts) <= 2 * MOST_LEVELS or text in self.counts:
                self.counts[text] += 1
            if not self.text and is_number(text) and np.isfinite(float(text)):
                self.numbers.append(float(text))
            else:
                self.text = True

    @property
    def is_number(self) -> bool:
        return not self.text and bool(self.numbers)

    @property
    def levels(self) -> list[str]:
        """Levels with enough rows, in order of text."""
        return sorted(level for level, count in self.counts.items() if count >= FLOOR)


def propose(source: str, target: str, registry: Catalogue, reader: str | None = None) -> str:
    """Returns the text of a draft for the table `source` with the column `target` to predict.

    Raises DataError if no column can be described.
    """
    kind = find_reader(source, reader, registry)
    if not issubclass(kind, TableReader):
        raise ConfigError(f"a schema describes tables, and {source} is read by '{kind.name}'", hint="Use a CSV file.")
    sheets = kind.from_options({}).open_new(source)
    names = list(sheets.names)
    place = find_column(names, target, "target", sheets.where)
    plan = ColumnPlan(tuple(names), None, (), (), tuple(range(len(names))))
    found = [_Words() for _ in names]
    for batch in sheets.batches(plan, as_text=True):
        for index, words in enumerate(found):
            words.add(batch.columns[index].to_pylist())
    columns = [
        _column(name, words) for index, (name, words) in enumerate(zip(names, found, strict=True)) if index != place
    ]
    if not any(line.startswith("  ") for line in columns):
        raise DataError(f"{source}: no column can be described by a schema")
    head = [HEADER.format(floor=FLOOR) + f"format: {FORMAT}", f"name: {quoted(Path(source).stem.split('.')[0])}"]
    return "\n".join([*head, *_target(names[place], found[place]), "columns:", *columns]) + "\n"


def _target(name: str, words: _Words) -> list[str]:
    classes = words.levels
    if words.is_number and len(words.counts) > 10:
        mean, deviation = _rounded(words.numbers)
        return ["task: regression", f"target: {{column: {quoted(name)}, mean: {mean}, sd: {deviation}}}"]
    if len(classes) < 2:
        raise DataError(
            f"the target '{name}' has fewer than 2 classes of {counted(FLOOR, 'row')}", hint="Name another --target."
        )
    listed = ", ".join(map(quoted, classes))
    task = "binary" if len(classes) == 2 else "classification"
    return [f"task: {task}", f"target: {{column: {quoted(name)}, classes: [{listed}]}}"]


def _column(name: str, words: _Words) -> str:
    """One line of `columns`, or a comment that says why the column is left out."""
    if words.is_number and len(words.numbers) >= FLOOR:
        mean, deviation = _rounded(words.numbers)
        missing = ", missing: mean" if words.missing else ""
        return f"  {quoted(name)}: {{type: number, mean: {mean}, sd: {deviation}{missing}}}"
    if len(words.counts) > MOST_LEVELS:
        return f"# {quoted(name)}: left out, it has more than {MOST_LEVELS} distinct values"
    if not words.levels:
        return f"# {quoted(name)}: left out, no value has {counted(FLOOR, 'row')}"
    rare = len(words.levels) < len(words.counts) and OTHER not in words.levels
    listed = ", ".join(map(quoted, [*words.levels, *([OTHER] if rare else [])]))
    missing = ", missing: level" if words.missing else ""
    return f"  {quoted(name)}: {{type: category, levels: [{listed}]{missing}}}"


def _rounded(numbers: Sequence[float]) -> tuple[str, str]:
    """Mean and standard deviation to two significant digits; 1 in place of a deviation of 0."""
    values = np.array(numbers)
    deviation = float(f"{values.std():.1e}") or 1.0
    return f"{float(f'{values.mean():.1e}'):g}", f"{deviation:g}"


def quoted(text: str) -> str:
    """The text as a YAML scalar in double quotes."""
    import json

    return json.dumps(text, ensure_ascii=False)

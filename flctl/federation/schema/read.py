"""Strict reader of schema files: every problem at once, each with file, line and column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flctl.config.problems import Place, Problem, Source, refuse
from flctl.config.yaml_reader import Entry, Node, parse, read_source
from flctl.errors import suggest
from flctl.federation.schema.schema import FORMAT, Schema, SchemaColumn, SchemaTarget

__all__ = ["open_schema", "read_schema"]

Value = TypeVar("Value")
TOP = ("format", "name", "task", "target", "columns", "missing")
NUMBER = ("type", "unit", "range", "mean", "sd", "missing")
CATEGORY = ("type", "levels", "missing")
TARGET = ("column", "classes", "unit", "range", "mean", "sd")
TASKS = ("binary", "classification", "regression")
MAX_LEVELS = 4096


def open_schema(path: Path) -> Schema:
    """Reads the schema file `path`. Raises ConfigError listing every problem with its line and column."""
    return read_schema(read_source(path))


def read_schema(source: Source) -> Schema:
    """Returns the schema that a YAML text describes. Raises ConfigError listing every problem."""
    root, problems = parse(source)
    reading = _SchemaReading(problems)
    schema = reading.schema(root)
    if reading.problems or schema is None:
        raise refuse(reading.problems, hint=None)
    return schema


@dataclass
class _SchemaReading:
    """Reads nodes into values and collects problems; a value with a problem is None."""

    problems: list[Problem] = field(default_factory=list)

    def schema(self, root: Node) -> Schema | None:
        keys = self.mapping(root, TOP, "the schema", ("format", "name", "task", "target", "columns"))
        if keys is None:
            return None
        self.one_of(keys.get("format"), (FORMAT,), "format")
        name, task = self.text(keys.get("name"), "name"), self.one_of(keys.get("task"), TASKS, "task")
        columns = tuple(self.columns(keys.get("columns")))
        target = self.target(keys.get("target"), task)
        missing = self.texts(keys.get("missing"), "missing", least=0) if "missing" in keys else ()
        if target is not None and any(column.name == target.name for column in columns):
            self.add(f"the target '{target.name}' is among the columns too", keys["target"].key)
        if self.problems or name is None or task is None or target is None or missing is None:
            return None
        return Schema(name, task, target, columns, missing)  # type: ignore[arg-type]

    def columns(self, entry: Entry | None) -> Iterator[SchemaColumn]:
        if entry is None:
            return
        if not isinstance(entry.node.value, dict) or not entry.node.value:
            self.add("columns: expected `NAME: {type: ...}` for each column, in the order of the features", entry.key)
            return
        for name, item in entry.node.value.items():
            self.name(name, item.key)
            column = self.column(name, item)
            if column is not None:
                yield column

    def column(self, name: str, item: Entry) -> SchemaColumn | None:
        if not isinstance(item.node.value, dict):
            self.add(f"column '{name}': expected {{type: number}} or {{type: category, levels: [...]}}", item.key)
            return None
        kind = self.one_of(item.node.value.get("type"), ("number", "category"), "type", of=item.key)
        if kind == "number":
            return self.number(name, item)
        return self.category(name, item) if kind == "category" else None

    def number(self, name: str, item: Entry) -> SchemaColumn | None:
        keys = self.mapping(item.node, NUMBER, f"column '{name}'", ("type",))
        if keys is None:
            return None
        missing = self.one_of(keys.get("missing"), ("refuse", "mean"), "missing", default="refuse")
        mean, sd = self.standardisation(keys)
        if missing == "mean" and mean is None:
            self.add(f"column '{name}': missing: mean needs `mean` and `sd`", keys["missing"].key)
        span, unit = self.span(keys.get("range")), self.unit(keys)
        return SchemaColumn(name, "number", (), unit, span, mean, sd, missing or "refuse")  # type: ignore[arg-type]

    def category(self, name: str, item: Entry) -> SchemaColumn | None:
        keys = self.mapping(item.node, CATEGORY, f"column '{name}'", ("type", "levels"))
        if keys is None:
            return None
        levels = self.texts(keys.get("levels"), "levels", least=1)
        missing = self.one_of(keys.get("missing"), ("refuse", "level"), "missing", default="refuse")
        return SchemaColumn(name, "category", levels or (), missing=missing or "refuse")  # type: ignore[arg-type]

    def target(self, entry: Entry | None, task: str | None) -> SchemaTarget | None:
        keys = None if entry is None else self.mapping(entry.node, TARGET, "the target", ("column",))
        if keys is None or entry is None:
            return None
        name = self.text(keys.get("column"), "column")
        unused = ("classes",) if task == "regression" else ("unit", "range", "mean", "sd")
        for key in unused:
            if task is not None and key in keys:
                self.add(f"the target of a {task} has no '{key}'", keys[key].key)
        classes: tuple[str, ...] | None = ()
        if task in ("binary", "classification"):
            classes = self.classes(keys, entry.key, 2 if task == "binary" else None)
        mean, sd = self.standardisation(keys)
        if name is None or classes is None:
            return None
        return SchemaTarget(name, classes, self.unit(keys), self.span(keys.get("range")), mean, sd)

    def classes(self, keys: Mapping[str, Entry], place: Place, count: int | None) -> tuple[str, ...] | None:
        if "classes" not in keys:
            self.add("the target has no 'classes'", place, "List them in order, for a binary task the positive last.")
            return None
        found = self.texts(keys["classes"], "classes", least=2)
        if found is not None and count is not None and len(found) != count:
            self.add(f"a binary task has 2 classes, found {len(found)}", keys["classes"].key)
        return found

    def standardisation(self, keys: Mapping[str, Entry]) -> tuple[float | None, float | None]:
        mean, sd = (self.float(keys.get(key), key) for key in ("mean", "sd"))
        if ("mean" in keys) != ("sd" in keys):
            present = "mean" if "mean" in keys else "sd"
            self.add("`mean` and `sd` are set together or not at all", keys[present].key)
        if sd is not None and sd <= 0:
            self.add(f"sd is {sd:g}, expected more than 0", keys["sd"].node.place)
        return mean, sd

    def span(self, entry: Entry | None) -> tuple[float, float] | None:
        if entry is None:
            return None
        items = entry.node.value if isinstance(entry.node.value, list) else []
        ends = [self.float(Entry(entry.key, item), "range") for item in items]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
            self.add("range: expected [least, largest]", entry.node.place)
            return None
        return ends[0], ends[1]

    def unit(self, keys: Mapping[str, Entry]) -> str:
        return (self.text(keys["unit"], "unit") or "") if "unit" in keys else ""

    def mapping(self, node: Node, known: tuple[str, ...], what: str, needed: tuple[str, ...]) -> Any:
        if not isinstance(node.value, dict):
            self.add(f"{what}: expected keys and values", node.place)
            return None
        for key, entry in node.value.items():
            if key not in known:
                hint = suggest(key, known) or f"Known: {', '.join(known)}."
                self.add(f"{what} has no key '{key}'", entry.key, hint)
        missing = [key for key in needed if key not in node.value]
        for key in missing:
            self.add(f"{what} needs the key '{key}'", node.place)
        return node.value

    def one_of(
        self, entry: Entry | None, known: tuple[str, ...], key: str, *, of: Place | None = None, default: str = ""
    ) -> str | None:
        if entry is None:
            if of is not None:
                self.add(f"needs the key '{key}'", of, f"One of {', '.join(known)}.")
            return default or None
        if entry.node.value in known:
            return str(entry.node.value)
        self.add(f"{key}: {entry.node.value!r} is not one of {', '.join(known)}", entry.node.place)
        return None

    def text(self, entry: Entry | None, key: str) -> str | None:
        if entry is None:
            return None
        value = entry.node.value
        if not isinstance(value, str) or not value.strip():
            self.add(f"{key}: expected text, found {value!r}", entry.node.place, "Quote it.")
            return None
        return value if self.name(value, entry.node.place) else None

    def texts(self, entry: Entry | None, key: str, least: int) -> tuple[str, ...] | None:
        """Distinct words of a list. Whole numbers count as they are written; other numbers want quotes."""
        if entry is None:
            return None
        items = entry.node.value
        if not isinstance(items, list) or not least <= len(items) <= MAX_LEVELS:
            self.add(f"{key}: expected a list of {least} to {MAX_LEVELS:,} words", entry.node.place)
            return None
        words: dict[str, None] = {}
        for item in items:
            word = str(item.value) if type(item.value) is int else item.value
            if not isinstance(word, str) or not word.strip() or word != word.strip():
                self.add(f"{key}: {item.value!r} is not a word", item.place, "Quote it, without blanks around it.")
            elif word in words:
                self.add(f"{key}: '{word}' is there twice", item.place)
            elif self.name(word, item.place):
                words[word] = None
        return tuple(words)

    def float(self, entry: Entry | None, key: str) -> float | None:
        if entry is None:
            return None
        value = entry.node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.add(f"{key}: expected a number, found {value!r}", entry.node.place)
            return None
        return float(value)

    def name(self, word: str, place: Place) -> bool:
        """True if a name or level can be shown in a terminal."""
        if word.isprintable() and len(word) <= 256:
            return True
        self.add("names and levels have 1 to 256 printable characters", place)
        return False

    def add(self, message: str, place: Place, hint: str | None = None) -> None:
        self.problems.append(Problem(message, place, hint))

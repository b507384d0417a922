"""Strict YAML reader: keeps the place of every key and value, and enforces limits.

Scalars are those of YAML 1.2 (core schema): `1e-3` is a number, `no` is text, `012` is twelve. Duplicate keys, tags,
merge keys and several documents are problems. Aliases work, but their expansion is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flctl.config.problems import Place, Problem, Source, refuse
from flctl.errors import ConfigError

__all__ = ["Entry", "Node", "parse", "plain", "read_source"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 10_000

NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
TRUE = re.compile(r"(?:true|True|TRUE)\Z")
FALSE = re.compile(r"(?:false|False|FALSE)\Z")
INTEGER = re.compile(r"[-+]?[0-9]{1,300}\Z")
OCTAL = re.compile(r"0o[0-7]{1,300}\Z")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,300}\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,9})?\Z")
INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)\Z")
NOT_A_NUMBER = re.compile(r"\.(?:nan|NaN|NAN)\Z")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a mapping and the place of its key."""

    key: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: a scalar, a list of nodes, or a mapping of entries."""

    value: str | int | float | bool | list[Node] | dict[str, Entry] | None
    place: Place


def plain(node: Node) -> Any:
    """Returns the value without places."""
    if isinstance(node.value, dict):
        return {key: plain(entry.node) for key, entry in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def read_source(path: Path) -> Source:
    """Returns the text of a YAML file. Raises ConfigError if it is missing, larger than 1 MiB, or not UTF-8."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"config file {path} {what}", hint="Use the path of a YAML file.")
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"config file {path} is larger than 1 MiB", hint="Check that this is a configuration file.")
    try:
        return Source(str(path), data.decode("utf-8-sig"), is_file=True)
    except UnicodeDecodeError as error:
        message = f"config file {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        raise ConfigError(message, hint="Save it as UTF-8.") from error


def parse(source: Source) -> tuple[Node, list[Problem]]:
    """Returns the document in `source` (an empty one is null) and the problems of its keys.

    Raises ConfigError if the text is not YAML, or exceeds the limits.
    """
    try:
        root = _Loader(source).get_single_node()
        if root is None:
            return Node(None, source.place()), []
        reading = _Reading(source)
        return reading.node(root, 0), reading.problems
    except yaml.reader.ReaderError as error:
        raise refuse([_unreadable(source, error)]) from error
    except yaml.MarkedYAMLError as error:
        raise refuse([_syntax(source, error)]) from error
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, a version number without end
        raise refuse([Problem(f"this is not YAML: {error}", source.place())]) from error


class _Loader(yaml.SafeLoader):
    """Composes nodes without resolving scalars; rejects tags, excessive depth and excessive size."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, source: Source) -> None:
        super().__init__(source.text)
        self.depth = 0
        self.composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.composed += 1
        if getattr(event, "tag", None) is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            raise _stop(f"the tag {tag} is not allowed", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise _stop(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        if self.composed > MAX_NODES:
            raise _stop(f"more than {MAX_NODES} values", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


@dataclass(slots=True)
class _Reading:
    """Converts composed nodes, collecting problems. Counts nodes again, because an alias repeats those it refers to."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    count: int = 0

    def node(self, node: yaml.Node, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise _stop("aliases expand to more than a configuration can hold", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return Node(self.entries(node, depth), self.place(node))
        if isinstance(node, yaml.SequenceNode):
            return Node([self.node(item, depth + 1) for item in node.value], self.place(node))
        text = str(node.value)
        if SURROGATE.search(text):
            raise _stop("an escape is half of a surrogate pair", node.start_mark)
        quoted = isinstance(node, yaml.ScalarNode) and node.style
        return Node(text if quoted else scalar(text), self.place(node))

    def entries(self, mapping: yaml.MappingNode, depth: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for key_node, value_node in mapping.value:
            place = self.place(key_node)
            value = self.node(value_node, depth + 1)
            name = self.key(key_node, place)
            if name is None:
                continue
            if name in found:
                first = found[name].key
                self.problems.append(Problem(f"duplicate key '{name}', first at {first.where}", place))
                continue
            found[name] = Entry(place, value)
        return found

    def key(self, node: yaml.Node, place: Place) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self.problems.append(Problem("a key must be a single word, not a list or mapping", place))
            return None
        if node.value == "<<" and node.style is None:
            self.problems.append(Problem("merge keys (<<) are not allowed", place, "Write the keys out."))
            return None
        return str(node.value)

    def place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        width = end.column - start.column if end.line == start.line else 1
        return self.source.place(start.line, start.column, width)


def scalar(text: str) -> str | int | float | bool | None:  # noqa: PLR0911
    """Returns the value of a plain (unquoted) scalar in YAML 1.2."""
    if NULL.match(text):
        return None
    if TRUE.match(text) or FALSE.match(text):
        return bool(TRUE.match(text))
    if INTEGER.match(text):
        return int(text)
    if OCTAL.match(text) or HEXADECIMAL.match(text):
        return int(text, 0)
    if NOT_A_NUMBER.match(text):
        return float("nan")
    infinite = INFINITE.match(text)
    if infinite:
        return float(infinite[1] + "inf")
    return float(text) if FLOAT.match(text) else text


def _stop(message: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=mark)


def _syntax(source: Source, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem or error.context)
    message, hint = next(
        ((ours, hint) for theirs, (ours, hint) in REWORDED.items() if theirs in problem), (problem, None)
    )
    return Problem(message, source.place(mark.line, mark.column) if mark else source.place(), hint)


REWORDED: Mapping[str, tuple[str, str]] = {
    "'\\t'": ("a tab where YAML wants spaces", "Indent with spaces."),
    "but found another document": ("a second document in one file", "Keep one document, without `---` between."),
    "mapping values are not allowed": ("a ':' that cannot stand here", "Check the indentation, or quote the text."),
}


def _unreadable(source: Source, error: yaml.reader.ReaderError) -> Problem:
    before = source.text[: error.position]
    line = len(re.findall("\r\n|[\n\r\x85\u2028\u2029]", before))
    column = len(before) - max((match.end() for match in re.finditer("[\n\r\x85\u2028\u2029]", before)), default=0)
    code = error.character if isinstance(error.character, int) else ord(error.character)
    return Problem(f"the character U+{code:04X} cannot stand in YAML", source.place(line, column))
